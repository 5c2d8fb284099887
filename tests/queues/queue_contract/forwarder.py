"""A TCP connection that a test can cut, mute or refuse."""

import contextlib
import socket
import threading


class Forwarder:
    """Listens at `port` and forwards to `target`, as long as it is told to.

    `mute()`: what the target says does not come through any more. `cut()`: the connections end. `refuse()` and
    `admit()`: new ones end at once, or not.
    """

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = []
        self._lock = threading.Lock()
        self._muted = threading.Event()
        self._refusing = False
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    self.accepted += 1
                    if self._refusing:
                        near.close()
                        continue
                    self._muted = threading.Event()
                    far = socket.create_connection(("127.0.0.1", self._target))
                    self._sockets += [near, far]
                for source, sink, muted in ((near, far, threading.Event()), (far, near, self._muted)):
                    threading.Thread(target=self._pump, args=(source, sink, muted), daemon=True).start()

    @staticmethod
    def _pump(source, sink, muted):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not muted.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def mute(self):
        self._muted.set()

    def cut(self):
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            self._sockets.clear()

    def refuse(self):
        self._refusing = True
        self.cut()

    def admit(self):
        self._refusing = False

    def close(self):
        self._listener.close()
        self.refuse()
