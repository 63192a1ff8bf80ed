"""Everything that touches PySyncObj, and nothing else does."""
