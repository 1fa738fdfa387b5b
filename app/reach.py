"""Why a server was not reached, in words for those who have to do something about it.

Machines and the doctor import this module too.
"""

import requests


def why_not(error: requests.RequestException) -> str:
    """Say why a request got no answer."""
    if isinstance(error, requests.exceptions.SSLError):
        return "no TLS that this computer trusts (plain HTTP has an address with http://)"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not let it through; look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection; is the address right, does the server run, does a firewall let it through?"
    return type(error).__name__
