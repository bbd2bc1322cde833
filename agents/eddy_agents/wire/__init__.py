"""Pure wire parsers: bytes in, values out, `WireError` for anything else."""
