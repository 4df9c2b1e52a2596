"""Parameters of the chip and its parts: frozen dataclasses, checked when made, and named presets."""

from dataclasses import dataclass, field, replace

__all__ = ["ChipConfig", "DdrConfig", "SystemConfig", "ddr4_2400r", "ddr4_3200aa"]

# In picoseconds: the longest time that a field may hold, so that timers stay small.
_LONGEST = 10_000_000


@dataclass(frozen=True)
class DdrConfig:
    """A channel of DDR4: 64 bits, one rank of 4 bank groups by 4 banks, pages of 128 lines, burst length 8.

    Times are in picoseconds, as the devices' data sheet gives them; :meth:`ticks` rounds them to clocks (tCK) by the
    standard's rule. The controller runs at a quarter of the DRAM clock: a core cycle is four ticks, one burst.

    Ref: JESD79-4 4 (commands), 13 (timing, rounding)

    Parameters
    ----------
    rate
        Transfers per second in millions; a tick is ``2 / rate`` us.
    cl, cwl
        Read and write latency in ticks.
    rcd, rp, ras, rc
        One bank: activate to access, precharge to activate, activate to precharge, activate to activate.
    rrd_s, rrd_l, faw
        Activate to activate in another and in the same bank group; window that holds at most four activates.
    wr, rtp
        End of write data to precharge, read to precharge.
    wtr_s, wtr_l
        End of write data to read, in another and in the same bank group.
    ccd_s, ccd_l
        Access to access, in another and in the same bank group.
    rfc, refi
        Length of a refresh; average time from one to the next.
    reorder
        Requests that the controller holds from their acceptance to their response; a power of two.
    queue
        Requests that wait for one bank; a power of two.
    writes
        Lines of write data that the controller holds; a power of two.
    postpone
        Refreshes that may be put off while there is work; at most 7, so that never more than 9 intervals pass.
    """

    rate: int
    cl: int
    cwl: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rrd_s: int
    rrd_l: int
    faw: int
    wr: int
    wtr_s: int
    wtr_l: int
    rtp: int
    ccd_s: int
    ccd_l: int
    rfc: int
    refi: int
    reorder: int = 128
    queue: int = 16
    writes: int = 32
    postpone: int = 3

    def __post_init__(self):
        if not 1600 <= self.rate <= 3200:
            raise ValueError(f"rate is {self.rate}; 1600 to 3200 expected")
        if not 9 <= self.cwl <= self.cl <= 32:
            raise ValueError(f"cwl is {self.cwl} and cl is {self.cl}; 9 <= cwl <= cl <= 32 expected")
        times = "rcd rp ras rc rrd_s rrd_l faw wr wtr_s wtr_l rtp ccd_s ccd_l rfc refi".split()
        for name in times:
            if not 1000 <= getattr(self, name) <= _LONGEST:
                raise ValueError(f"{name} is {getattr(self, name)}; 1000 to {_LONGEST} ps expected")
        for short, long in (("rrd_s", "rrd_l"), ("wtr_s", "wtr_l"), ("ccd_s", "ccd_l"), ("ras", "rc")):
            if getattr(self, short) > getattr(self, long):
                raise ValueError(f"{short} is {getattr(self, short)}; at most {long}, {getattr(self, long)}, expected")
        if self.refi < 2 * self.rfc:
            raise ValueError(f"refi is {self.refi}; at least twice rfc, {self.rfc}, expected")
        if self.ticks("ccd_s") < 4:
            raise ValueError(f"ccd_s is {self.ccd_s}; at least a burst of 4 ticks expected")
        for name, low, high in (("reorder", 8, 512), ("queue", 4, 64), ("writes", 8, 128)):
            value = getattr(self, name)
            if not low <= value <= high or value & (value - 1):
                raise ValueError(f"{name} is {value}; a power of two from {low} to {high} expected")
        if not 0 <= self.postpone <= 7:
            raise ValueError(f"postpone is {self.postpone}; 0 to 7 expected")

    def ticks(self, name):
        """Ticks of the time `name`: rounded up, except ``refi``, which is a bound from above.

        As in the standard, an excess of less than 2.6 % of a tick does not count: the data sheet's times are
        themselves rounded. ``cl`` and ``cwl`` are in ticks already.
        """
        if name in ("cl", "cwl"):
            return getattr(self, name)
        thousandths = getattr(self, name) * self.rate // 2000
        return thousandths // 1000 if name == "refi" else (thousandths + 974) // 1000


def ddr4_2400r(**changes):
    """DDR4-2400R: tick 0.833 ns, core cycle 3.33 ns."""
    return DdrConfig(
        **{
            **{"rate": 2400, "cl": 16, "cwl": 12, "rcd": 13_330, "rp": 13_330, "ras": 32_500, "rc": 45_830},
            **{"rrd_s": 3_330, "rrd_l": 5_000, "faw": 21_670, "wr": 15_000, "wtr_s": 2_500, "wtr_l": 7_500},
            **{"rtp": 7_500, "ccd_s": 3_330, "ccd_l": 5_000, "rfc": 350_000, "refi": 7_800_000, **changes},
        }
    )


def ddr4_3200aa(**changes):
    """DDR4-3200AA: tick 0.625 ns, core cycle 2.5 ns."""
    return DdrConfig(
        **{
            **{"rate": 3200, "cl": 22, "cwl": 16, "rcd": 13_750, "rp": 13_750, "ras": 32_500, "rc": 46_250},
            **{"rrd_s": 2_500, "rrd_l": 5_000, "faw": 21_250, "wr": 15_000, "wtr_s": 2_500, "wtr_l": 7_500},
            **{"rtp": 7_500, "ccd_s": 2_500, "ccd_l": 5_000, "rfc": 350_000, "refi": 7_800_000, **changes},
        }
    )


@dataclass(frozen=True)
class ChipConfig:
    """One chip.

    Parameters
    ----------
    ddr
        Its memory channel.
    memory_lines
        Lines of its memory, a power of two.
    max_width
        Samples of the widest row that compute can take or give, and that compose can give; a power of two.
    layers
        Of a picture that compose makes: 2, 4, 8 or 16.
    queue
        Descriptors that wait for one engine.
    watchdog
        Cycles after which an engine that neither works nor gets answers gives its task up.
    ports
        Links to other chips.
    lanes
        Of each link.
    give_up
        Cycles after which a link that was up and does not come up again is lost.
    """

    ddr: DdrConfig = field(default_factory=ddr4_3200aa)
    memory_lines: int = 1 << 20
    max_width: int = 2048
    layers: int = 16
    queue: int = 16
    watchdog: int = 1 << 16
    ports: int = 0
    lanes: int = 1
    give_up: int = 1 << 20

    def __post_init__(self):
        for name, low, high in (("memory_lines", 1 << 11, 1 << 29), ("max_width", 64, 8192)):
            value = getattr(self, name)
            if not low <= value <= high or value & (value - 1):
                raise ValueError(f"{name} is {value}; a power of two from {low} to {high} expected")
        if self.layers not in (2, 4, 8, 16):
            raise ValueError(f"layers is {self.layers}; 2, 4, 8 or 16 expected")
        if not 2 <= self.queue <= 64:
            raise ValueError(f"queue is {self.queue}; 2 to 64 expected")
        if not 256 <= self.watchdog <= 1 << 24:
            raise ValueError(f"watchdog is {self.watchdog}; 256 to {1 << 24} cycles expected")
        if not 0 <= self.ports <= 8:
            raise ValueError(f"ports is {self.ports}; 0 to 8 expected")
        if self.lanes not in (1, 2, 4):
            raise ValueError(f"lanes is {self.lanes}; 1, 2 or 4 expected")
        if not 1000 <= self.give_up <= 1 << 24:
            raise ValueError(f"give_up is {self.give_up}; 1000 to {1 << 24} cycles expected")


@dataclass(frozen=True)
class SystemConfig:
    """What is simulated: chips in a full mesh of links, their DRAM, and a host.

    Parameters
    ----------
    chip
        Each chip, but for its links: it has as many as there are other chips.
    host_bytes
        Of the host's memory, a power of two.
    chips
        How many.
    wire
        Cycles that a link's wires take.
    """

    chip: ChipConfig = field(default_factory=ChipConfig)
    host_bytes: int = 1 << 26
    chips: int = 1
    wire: int = 1

    def __post_init__(self):
        if not 1 << 16 <= self.host_bytes <= 1 << 31 or self.host_bytes & (self.host_bytes - 1):
            raise ValueError(f"host_bytes is {self.host_bytes}; a power of two from {1 << 16} to {1 << 31} expected")
        if not 1 <= self.chips <= 8:
            raise ValueError(f"chips is {self.chips}; 1 to 8 expected")
        if not 1 <= self.wire <= 64:
            raise ValueError(f"wire is {self.wire}; 1 to 64 cycles expected")
        if self.chip.ports not in (0, self.chips - 1):
            raise ValueError(f"chip.ports is {self.chip.ports}; {self.chips - 1} expected: chips are all linked")
        object.__setattr__(self, "chip", replace(self.chip, ports=self.chips - 1))
