"""``cellserve doctor``: looks at all that a server needs, without starting one, and says what is wrong in words."""
