"""The archive room: reads what a hospital has, trusts nothing, and says what it refused."""
