"""The programs in `bin/`, run as their users run them."""
