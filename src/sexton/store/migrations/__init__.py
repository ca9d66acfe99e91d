"""The migrations; see `sexton.store.upgrade`."""
