"""A network switch between virtual machines, in this process: no address or bridge of the host takes part.

QEMU's `-netdev stream` sends each Ethernet frame with its length before it, as four bytes.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

# No frame is longer, also where cards hand over several at once.
LONGEST = 256 * 1024
# What a machine does not take is dropped beyond this, as by any switch.
QUEUE_BYTES = 4 * 1024 * 1024
HEADER = struct.Struct("!I")
BROADCAST_BIT = 1


@dataclass(eq=False)
class Port:
    """The cable of one machine."""

    peer: socket.socket
    arrived: bytearray = field(default_factory=bytearray)
    leaving: bytearray = field(default_factory=bytearray)


class Switch:
    """Listens at PATH for as many machines as connect."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ports: set[Port] = set()
        # Behind which cable a card was seen.
        self._known: dict[bytes, Port] = {}
        self._events = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._events.register(self._listener, selectors.EVENT_READ, None)
        threading.Thread(target=self._serve, name="switch", daemon=True).start()

    def _serve(self) -> None:
        while True:
            for key, ready in self._events.select():
                if key.data is None:
                    self._accept()
                    continue
                port: Port = key.data
                if ready & selectors.EVENT_READ and not self._receive(port):
                    self._remove(port)
                elif ready & selectors.EVENT_WRITE:
                    self._flush(port)

    def _accept(self) -> None:
        # All who wait: a machine that is plugged in sees what is sent from then on.
        while True:
            try:
                peer, _ = self._listener.accept()
            except BlockingIOError:
                return
            peer.setblocking(False)
            port = Port(peer)
            self._ports.add(port)
            self._events.register(peer, selectors.EVENT_READ, port)

    def _remove(self, port: Port) -> None:
        self._events.unregister(port.peer)
        port.peer.close()
        self._ports.discard(port)
        self._known = {card: at for card, at in self._known.items() if at is not port}

    def _receive(self, port: Port) -> bool:
        """Takes what has arrived; false when the machine is gone."""
        try:
            data = port.peer.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError:
            return False
        port.arrived += data
        while len(port.arrived) >= HEADER.size:
            (length,) = HEADER.unpack_from(port.arrived)
            if length > LONGEST:
                return False
            end = HEADER.size + length
            if len(port.arrived) < end:
                break
            self._forward(port, bytes(port.arrived[HEADER.size : end]))
            del port.arrived[:end]
        return bool(data)

    def _forward(self, source: Port, frame: bytes) -> None:
        target, card = frame[:6], frame[6:12]
        if len(card) < 6:
            return
        self._known[card] = source
        only = None if target[0] & BROADCAST_BIT else self._known.get(target)
        for port in [only] if only is not None else list(self._ports):
            if port is not source and len(port.leaving) + len(frame) <= QUEUE_BYTES:
                port.leaving += HEADER.pack(len(frame)) + frame
                self._flush(port)

    def _flush(self, port: Port) -> None:
        try:
            sent = port.peer.send(port.leaving)
        except BlockingIOError:
            sent = 0
        except OSError:
            # It is gone, which reading will say.
            port.leaving.clear()
            sent = 0
        del port.leaving[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.leaving else 0)
        if self._events.get_key(port.peer).events != events:
            self._events.modify(port.peer, events, port)
