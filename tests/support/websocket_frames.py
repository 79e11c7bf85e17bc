"""Frames as a WebSocket server sends them, by a foreign implementation."""

from wsproto.frame_protocol import FrameProtocol, Opcode

SERVER = FrameProtocol(client=False, extensions=[])


def message(payload: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """One unfragmented frame, as a server sends it."""
    return bytes(SERVER._serialize_frame(opcode, payload))


def fragmented(parts: list[bytes]) -> bytes:
    frames = b""
    for number, part in enumerate(parts):
        opcode = Opcode.TEXT if number == 0 else Opcode.CONTINUATION
        frames += bytes(SERVER._serialize_frame(opcode, part, fin=number == len(parts) - 1))
    return frames
