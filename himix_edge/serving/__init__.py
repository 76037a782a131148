"""An OpenAI-style server: `himix serve`. `docs/guides/serve.md` says what it takes and gives.

`app` has the addresses, `access` who may ask, `requests` what may be asked, `desk` lends the sessions, `answering` asks
them, `images` keeps what was seen.
"""
