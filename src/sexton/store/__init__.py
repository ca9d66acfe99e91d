"""The record in SQL: functions over a transaction. Only this package names tables."""
