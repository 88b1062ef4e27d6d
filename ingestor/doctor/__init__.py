"""What is right and wrong with an installation, its machine, its server, its vendor and its data.

Each module yields `Finding`s, one a check; nothing here changes anything.
"""
