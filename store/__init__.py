"""Every byte format: packed bits, bundle manifest, SQLite schema. Needs numpy and sqlite-utils, nothing heavier."""
