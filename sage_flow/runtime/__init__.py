"""What one subtask does, as pure state machines: no thread, socket, clock or Ray in here."""
