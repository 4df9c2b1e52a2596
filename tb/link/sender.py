"""Testbench of hw/link/sender.py."""

from tessera.hw.link.retry import RetryParameters
from tessera.hw.link.sender import PacketSender
from tessera.tb.bench import Dut

DUTS = {"sender": Dut(lambda: PacketSender(RetryParameters((32, 32, 128, 32, 16, 16))), watched=True)}
