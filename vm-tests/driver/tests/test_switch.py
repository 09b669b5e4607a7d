"""Frames reach whom they are for, and nobody else."""

import socket
import struct
import tempfile
import unittest
from pathlib import Path

from driver.switch import LONGEST, Switch

EVERYBODY = b"\xff" * 6


def card(number: int) -> bytes:
    return bytes([0x52, 0x54, 0, 0, 0, number])


class Cables(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.switch = Switch(Path(folder.name) / "switch")
        self.cables = [self.plug_in() for _ in range(3)]
        # A frame that all see says that all are plugged in, and shows the switch where the first is.
        for sender, cable in enumerate(self.cables):
            self.send(cable, EVERYBODY, sender, b"here")
            for other in self.cables:
                if other is not cable:
                    self.assertEqual(self.receive(other), EVERYBODY + card(sender) + b"here")

    def plug_in(self) -> socket.socket:
        cable = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        cable.settimeout(10)
        self.addCleanup(cable.close)
        cable.connect(str(self.switch.path))
        return cable

    def send(self, cable: socket.socket, target: bytes, sender: int, data: bytes) -> None:
        frame = target + card(sender) + data
        cable.sendall(struct.pack("!I", len(frame)) + frame)

    def receive(self, cable: socket.socket) -> bytes:
        (length,) = struct.unpack("!I", self.exactly(cable, 4))
        return self.exactly(cable, length)

    def exactly(self, cable: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = cable.recv(count - len(data))
            self.assertTrue(more, "the switch hung up")
            data += more
        return data

    def test_a_known_card_gets_its_frames_alone(self) -> None:
        self.send(self.cables[0], card(2), 0, b"for the third")
        self.send(self.cables[0], EVERYBODY, 0, b"for all")
        self.assertEqual(self.receive(self.cables[1])[12:], b"for all")
        self.assertEqual(self.receive(self.cables[2])[12:], b"for the third")

    def test_frames_may_come_in_pieces(self) -> None:
        frame = card(1) + card(0) + b"x" * 9000
        message = struct.pack("!I", len(frame)) + frame
        for at in range(0, len(message), 1000):
            self.cables[0].sendall(message[at : at + 1000])
        self.assertEqual(self.receive(self.cables[1]), frame)

    def test_a_machine_that_goes_and_returns_is_found_again(self) -> None:
        self.cables[1].close()
        again = self.plug_in()
        self.send(again, EVERYBODY, 1, b"back")
        for other in (self.cables[0], self.cables[2]):
            self.assertEqual(self.receive(other)[12:], b"back")
        self.send(self.cables[0], card(1), 0, b"welcome")
        self.assertEqual(self.receive(again)[12:], b"welcome")

    def test_who_does_not_speak_the_protocol_is_cut_off(self) -> None:
        self.cables[1].sendall(struct.pack("!I", LONGEST + 1))
        self.assertEqual(self.cables[1].recv(1), b"")
        self.send(self.cables[0], EVERYBODY, 0, b"others go on")
        self.assertEqual(self.receive(self.cables[2])[12:], b"others go on")
