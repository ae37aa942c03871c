"""The fault suite: processes are killed, connections cut, disks filled; nothing may be lost."""
