"""Values that look like nothing else: e-mail and network addresses, links with a password, wallets, IBANs, published token formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from llm_pipeline.curation.pii import validators
from llm_pipeline.curation.pii.context import OTHER, Context
from llm_pipeline.curation.pii.windows import Finder, Found, any_case

_TOKENS = {
    "anthropic": r"sk-ant-[A-Za-z0-9_-]{20,120}",
    "openai_stripe": r"(?:sk|pk|rk)[-_](?:live|test|proj|svcacct)?[-_]?[A-Za-z0-9_-]{16,200}",
    "github": r"gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}",
    "aws": r"(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}",
    "google": r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,200}|GOCSPX-[0-9A-Za-z_-]{20,40}",
    "slack": r"xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{10,150}",
    "slack_hook": r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}",
    "gitlab": r"gl(?:pat|ptt|dt|rt)-[A-Za-z0-9_-]{20,64}",
    "hugging_face": r"hf_[A-Za-z0-9]{30,64}",
    "sendgrid": r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}",
    "npm_pypi": r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}",
    "digital_ocean": r"do[opr]_v1_[0-9a-f]{64}",
    "mailgun": r"key-[0-9a-f]{32}",
    "square_shopify": r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,60}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "telegram": r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
    "twilio": r"(?:AC|SK)[0-9a-f]{32}",
    "jwt": r"eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{0,1000}",
}
"""Prefixes as their issuers publish them, collected for secret scanning by GitHub and gitleaks."""
_TOKEN = "|".join(_TOKENS.values())
_TOKEN_ANCHOR = re.sub(r"\{[^|]*", "", _TOKEN.replace("{8,10}", ""))
"""What each begins with, up to the first long part."""
_SECRETS = Context(
    {
        "secret": "api key, apikey, access key, accesskey, access token, secret, secret key, auth token, bearer, token, password, passwd, "
        "credential, credentials, client secret, app secret, signing key, signing secret, private key, encryption key, authorization, "
        "passwort, kennwort, contraseña, mot de passe, clé api, wachtwoord"
    }
)
_CRYPTO = Context(
    {"wallet": "bitcoin, btc, wallet, crypto, cryptocurrency, ethereum, eth, blockchain, litecoin, ltc, payout address, coins, usdt"}
)
_PEM = r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[\s\S]{0,8000}?-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
_IPV6 = r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?<![^:]:)(?!:?\w|::)"
_SPELLED = (
    r"(?<![\w.+-])[\w.+-]{1,64} ?(?:\(at\)|\[at\]|\bat\b) ?\w[\w-]{0,62}(?: ?(?:\(dot\)|\[dot\]|\bdot\b|\.) ?\w[\w-]{0,62}){0,4}"
    r" ?(?:\(dot\)|\[dot\]|\bdot\b) ?[a-z]{2,24}\b"
)
_LOCAL = re.compile(r"[\w+%-](?:[\w.+%'&=~-]{0,62}[\w+%'&=~-])?(?![\w.+-])")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
_URL = r"(?i)(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{1,30}://[^\s/:@\[\]<>]{0,128}:[^\s/@<>]{1,256}@[^\s<>\"')\],;]{0,256}[^\s<>\"')\],;.]"
_WALLET = (
    r"(?<!\w)(?:(?:bc1|tb1|ltc1|BC1)[a-zA-Z0-9]{11,87}|[13LMDT][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40}|r[1-9A-HJ-NP-Za-km-z]{24,34}"
    r"|4[0-9AB][1-9A-HJ-NP-Za-km-z]{93})(?!\w)"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])")
_NUMBERED = Context(
    {
        "ip": "ip, ips, ipv, address, addresses, addr, adresse, dirección, indirizzo, adres, host, server, serveur, servidor, client, "
        "login, dns, "
        "ping, gateway, router, network, subnet, wan, lan, vpn, dhcp, nat, inet, ssh, proxy, src, dst, remote, peer, x forwarded for, "
        "blocked, banned, whitelist, allowlist, firewall"
    }
)


_MAC = re.compile(
    r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])"
    r"|(?<![\w.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![\w.])"
)


_OF_HARDWARE = Context({"mac": "mac, hwaddr, hwaddress, ether, ethernet, bssid, bluetooth, physical address, hardware address, hw addr"})


def _macs(text: str, low: int, high: int) -> Iterator[Found]:
    """Not all the same; in the form of three all digits only beside a word."""
    for match in _MAC.finditer(text, low, high):
        plain = "." in match.group() and not any(c.isalpha() for c in match.group())
        if len(set(match.group().lower())) > 2 and (not plain or "mac" in _OF_HARDWARE.near(text, *match.span())):
            yield *match.span(), 1.0, "MAC_ADDRESS", "mac"


def shape_finders() -> list[Finder]:
    return [
        Finder("@", _emails, before=67, after=270),
        _shape("email_spelled", "EMAIL_ADDRESS", _SPELLED, r"(?i)[ (\[]dot[ )\]]", strong=0.9, reach=426, flags=re.I),
        _shape("url_credentials", "URL_CREDENTIALS", _URL, r"://[^\s/:@]*:[^\s/@]*@", reach=660),
        Finder(r"\b(?:[0-9]{1,3}[.]){3}[0-9]", _ipv4, before=20, after=24),
        _shape("ipv6", "IP_ADDRESS", _IPV6, ":[0-9a-fA-F]{0,4}:", validators.ipv6, reach=54),
        Finder("[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]|[0-9A-Fa-f]{2}[.])", _macs, before=36, after=24),
        _shape("token", "API_KEY", rf"(?<![\w-])(?:{_TOKEN})", _TOKEN_ANCHOR, validators.token, reach=7200),
        _shape("private_key", "API_KEY", _PEM, "PRIVATE KEY", reach=8200),
        Finder(_ANCHOR, _secrets, before=250, after=290),
        Finder(r"\b(?:bc1|BC1|tb1|ltc1|0x[0-9a-fA-F]{16}|[1-9A-HJ-NP-Za-km-z]{25})", _wallets, before=30, after=120),
        Finder(r"\b[A-Za-z]{2}[0-9]{2}[ -]?[A-Za-z0-9]", _ibans, before=10, after=90),
    ]


def _shape(
    name: str,
    entity: str,
    pattern: str,
    anchor: str,
    check: Callable[[str], bool] | None = None,
    strong: float = 1.0,
    reach: int = 80,
    flags: int = 0,
) -> Finder:
    compiled = re.compile(pattern, flags)

    def find(text: str, low: int, high: int) -> Iterator[Found]:
        for match in compiled.finditer(text, low, high):
            if check is None or check(match.group()):
                yield match.start(), match.end(), strong, entity, name

    return Finder(anchor, find, before=reach, after=reach)


_REPOSITORY = re.compile(r"git@[\w.-]+:[\w.~/-]")
"""Where a repository is, as git and ssh write it."""


def _emails(text: str, low: int, high: int) -> Iterator[Found]:
    """The domain is read forwards from the @, the local part backwards."""
    at = text.find("@", low, high)
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1, high)
        local = _LOCAL.match(text[max(0, at - 66) : at][::-1]) if domain else None
        if domain and local and not _REPOSITORY.match(text, at - local.end()):
            yield at - local.end(), domain.end(), 1.0, "EMAIL_ADDRESS", "email"
        at = text.find("@", at + 1, high)


_SAID_FAR = 999
_SMALL = 32
"""Numbers of a version are smaller."""


def _ipv4(text: str, low: int, high: int) -> Iterator[Found]:
    """Four numbers that are no version ("release 2.31.0.1", "section 4.1.2.3"); four small ones need a word beside them, but in 10/8."""
    for match in _IPV4.finditer(text, low, high):
        near = _NUMBERED.near(text, *match.span())
        octets = match.group().split(".")
        small = octets[0] != "10" and all(int(octet) < _SMALL for octet in octets)
        said, denied = near.get("ip", _SAID_FAR), near.get(OTHER, _SAID_FAR)
        if validators.ip(match.group()) and said <= denied and ("ip" in near or not small):
            yield match.start(), match.end(), 1.0, "IP_ADDRESS", "ipv4"


_SECRET = re.compile(r"(?<![\w./\[-])[A-Za-z0-9_+/-]{16,200}={0,2}(?![\w/-])")


_LABEL = (
    r"(?i:pass(?:word|wd|phrase|code|wort)|kennwort|contraseña|mot de passe|palavra-passe|wachtwoord|lösenord|parola d'ordine"
    r"|(?<![a-z])(?:pass|pwd?|mdp|clave|senha|hasło|salasana|heslo))"
)
_WHOSE = r"(?:(?: [^\W\d_]{1,14})? (?:for|of|on|de|del|di|della|du|für|von|vom|zum|voor|van|para|dla)\b [\w .'’-]{1,40}?)?"
_PASSWORDS = (
    re.compile(
        rf"{_LABEL}[\"']?{_WHOSE}(?: ?(?:[:=]|=>)| is| was| ist| war| lautet| es| era| est| è| é| jest| är"
        rf"| er)[ \t]{{0,4}}[\"'`]?(?P<v>[^\s\"'`,\[<:=][^\s\"'`,]{{4,62}}?)(?=[.;]?(?:[\s\"'`,]|$))"
    ),
    re.compile(
        rf"(?:{_LABEL}(?: [a-z]+){{0,4}} to|--pass(?:word)?|sshpass -p|mysql [^\n]{{0,60}}-p|curl [^\n]{{0,60}}-u ?\w+:|<(?i:password"
        rf"|passwd|pwd)>)"
        r"[ =]?[\"'`]?(?P<v>[^\s\"'`,\[<][^\s\"'`,<]{4,62}?)(?=[.;]?(?:[\s\"'`,<]|$))"
    ),
    re.compile(rf"{_LABEL} [\"'`]?(?P<mixed>[^\s\"'`,\[<][^\s\"'`,]{{5,62}}?)(?=[.;]?(?:[\s\"'`,]|$))"),
    re.compile(
        r"(?i:logins? ?[:=] ?|(?:credentials?|creds|zugangsdaten|identifiants)[^\n:/]{0,24}(?:: ?| ))[\w.@+-]{3,60}(?: / | ?\| |: ?|/)"
        r"(?P<mixed>[^\s\"'`,\[</:][^\s\"'`,]{5,62}?)(?=[.;]?(?:[\s\"'`,]|$))"
    ),
)
"""`password: X` in many languages; what a command takes; and with nothing between (or as `login: ann / X`) what has signs of all sorts."""
_SPEAK_OF_ONE = (
    *("pass", "pw", "kennwort", "contraseña", "wachtwoord", "lösenord", "parola d", "mdp", "clave", "senha", "hasło", "salasana", "heslo"),
    *("mysql", "curl", "login", "credential", "creds", "zugangsdaten", "identifiants"),
)
"""One of these stands in whatever the patterns of passwords match."""
_ANCHOR = (
    any_case(
        "api key|api_key|apikey|api-key|access key|access_key|access-key|accesskey|secret|bearer|token|password|passwd|passphrase|passcode|"
        "sshpass|--pass|mysql|curl|credential|creds|zugangsdaten|identifiants|"
        "passwort|kennwort|contraseña|mot de passe|mdp|clave|senha|palavra-passe|wachtwoord|hasło|lösenord|salasana|heslo|parola d|"
        "signing key|private key|encryption key|clé api|authorization"
    )
    + "|pwd|PWD|(?:[pP](?:ass|w)|P(?:ASS|W)|[lL]ogins?|LOGIN)[\"']?(?: ?[:=]| is | ist )"
)


_NO_SECRET = re.compile(r"[^\n:=,]{0,40}(?i:id|uuid|guid|etag|hash|digest|checksum|nonce)[\"']?[ \t]{0,2}[:=][ \t]{0,2}[\"']?$")
"""Labels like `request-id:`, which no secret stands behind whatever the line above speaks of."""


def _secrets(text: str, low: int, high: int) -> Iterator[Found]:
    """Random-looking strings beside a word for keys, whoever issued them, and what is said to be a password."""
    said = text[low:high].lower()
    for pattern in _PASSWORDS if any(word in said for word in _SPEAK_OF_ONE) else ():
        for match in pattern.finditer(text, low, high):
            group = str(match.lastgroup)
            if validators.password(match[group]) and (group == "v" or validators.mixed(match[group])):
                yield *match.span(group), 0.85, "API_KEY", "password"
    for match in _SECRET.finditer(text, low, high):
        if not validators.secret(match.group()) or (near := _SECRETS.near(text, *match.span()).get("secret")) is None:
            continue
        if not ((label := _NO_SECRET.search(text, max(0, match.start() - 60), match.start())) and not _SECRETS.read(label[0], 0, 60)):
            yield match.start(), match.end(), 0.9 - near / 1000, "API_KEY", "secret"


_WALLETS = re.compile(_WALLET)


def _wallets(text: str, low: int, high: int) -> Iterator[Found]:
    for match in _WALLETS.finditer(text, low, high):
        if validators.wallet(match.group()):
            yield match.start(), match.end(), 1.0, "CRYPTO", "wallet"
        elif "wallet" in _CRYPTO.near(text, *match.span()) and any(c.isdigit() for c in match.group()):
            yield match.start(), match.end(), 0.8, "CRYPTO", "wallet_near"


_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}[0-9]{2}(?=[ -]?[A-Za-z0-9])")


def _ibans(text: str, low: int, high: int) -> Iterator[Found]:
    """IBANs with or without spaces: as many characters as the country's length says, and its check digits."""
    for match in _IBAN.finditer(text, low, high):
        length = validators.IBAN_LENGTHS.get(match.group()[:2].upper(), 0)
        body = re.compile(rf"[A-Za-z]{{2}}[0-9]{{2}}(?:[ -]?[A-Za-z0-9]){{{max(length - 4, 0)}}}(?!\w)").match(text, match.start(), high)
        if not length or body is None:
            continue
        if validators.iban(body.group()):
            yield body.start(), body.end(), 1.0, "IBAN_CODE", "iban"
