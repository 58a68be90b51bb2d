"""The console: a page that shows speculation at work, and what it asks for.

`static` is the page, plain files without a build step; `routes` serves them
and answers the page under `/console/api`. It asks as any client does, by the
same keys, and sees what its tenant may see.
"""
