"""HTTP in front of `api.Local`: who may ask, what a request and a reply look like. Decides nothing about runs."""
