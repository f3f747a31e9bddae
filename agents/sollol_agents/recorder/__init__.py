"""The recorder: writes every outcome and decision to SQLite and answers questions about them."""
