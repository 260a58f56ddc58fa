"""How fast CellServe is, beside others: ``python -m benchmarks``, or one alone: ``python -m benchmarks.steps``.

``docs/benchmarks.md`` says how to read the numbers.
"""
