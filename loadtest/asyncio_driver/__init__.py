"""The asyncio driver: levels, streams, schedules and its worker processes."""
