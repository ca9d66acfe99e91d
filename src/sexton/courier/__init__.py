"""The one delivery process per host and spool: ships journals to the store, samples processes, sees them die.

Started on demand by whoever writes or reads records (`start.ensure`), exits when there is nothing to do. Everything it
knows is in the journals and their cursors, so it can be killed at any moment and started again.
"""
