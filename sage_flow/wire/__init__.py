"""How records and messages become bytes: frames, lanes, codec, handshake."""
