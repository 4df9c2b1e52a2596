"""The picture of docs/link.md."""

from random import Random

import pytest

from tessera.hw.link.training import LinkState
from tessera.sim import link_trace
from tessera.tb.link.model import FILL_WORD, Packet


def test_words_are_named_after_their_packets():
    random = Random(1)
    request, answer, status = (
        Packet.random(random, lines, body, kind | cell << 11)
        for lines, body, kind, cell in ((0, True, 0, 3), (2, False, 2, 3), (0, True, 7, 0))
    )
    names = [(request, "request"), (answer, "response"), (status, "Status"), (answer, "response again")]
    words = [word for packet, _ in names for word in packet.words]
    expected = [name for packet, name in names for _ in packet.words]
    words += [FILL_WORD, *[request.words[0]] * (-len(words) % 8 - 1)]
    expected += ["filling"] * (len(words) - len(expected))
    blocks = [(False, True, n == 0, words[n : n + 8]) for n in range(0, len(words), 8)]
    # Where no stripe is taken, what is offered means nothing; and nothing but filling may come amid a packet.
    filling = (False, True, True, [FILL_WORD] * 8)
    blocks[2:2] = [(True, False, False, words[:8]), (False, False, False, words[:8]), filling]
    found = list(link_trace.words(iter(blocks)))
    assert found[2:5] == [["marker"] * 8, ["filling"] * 8, ["filling"] * 8]
    assert [name for block in found[:2] + found[5:] for name in block] == expected


@pytest.mark.soak
def test_it_shows_what_happens(tmp_path):
    chips = link_trace.record(tmp_path)
    assert all(chip.state[0] is LinkState.Training and chip.state[-1] is LinkState.Active for chip in chips)
    assert all(chip.blocks[0] == ["marker"] * 8 for chip in chips)
    assert (chips[0].asked[-1], chips[0].answered[-1], chips[0].wrong[-1], chips[1].again[-1]) == (2, 2, 1, 1)
    sent = [what for block in chips[1].blocks for what in dict.fromkeys(block) if what.startswith("response")]
    assert sent == ["response"] * 6 + ["response again"] * 3
    assert sum(chips[1].noise) == 1 and not any(chips[0].noise)
    file = tmp_path / "picture.png"
    link_trace.draw(chips, file)
    assert file.read_bytes()[:4] == b"\x89PNG"
