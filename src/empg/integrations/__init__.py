"""Each module serves one library that people already use, imports it lazily, and is imported by nothing else here."""
