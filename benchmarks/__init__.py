"""Figures of docs/benchmarks.md. Each module prints its own table; `python -m benchmarks.run_all` prints all of them.

They measure; they assert nothing about speed. Lakehouses are kept in --work and used again where they are there.
"""
