"""The words of captions that CIDEr-D counts: Stanford's PTB tokens without punctuation.

tokenize_caption("A man's dog, isn't it?")  # ["a", "man", "'s", "dog", "is", "n't", "it"]
"""

import re

_ABBREVIATIONS = (
    "adm ave bros capt co col corp dept dr etc gen gov hon inc jr lt ltd maj mr mrs ms mt pres "
    "prof rep rev sen sgt sr st vs jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues "
    "wed thu thurs fri"
)
_TOKEN = re.compile(
    rf"""
    </?[a-z!][^<>]*>                                  # markup
    | (?:https?://|www\.)[^\s"<>]*[\w/]               # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | [@#](?-i:[A-Za-z])\w*
    | (?<!\w)(?:[a-z]\.){{2,}}(?!\w)                  # u.s. and e.g.
    | (?<!\w)(?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w)
    | (?<!\w)no\.(?=\s*\d)
    | (?<!\w)'t(?=(?:is|was)\b) | (?<!\w)'[0-9]{{2}}s?\b  # 'tis and '90s
    | (?<=\w)'n'(?=\w) | (?<=\w)'(?:s|m|d|re|ve|ll|n)\b | (?<=\w)n't\b
    | [a-z]+?(?=n't\b)                                # the "is" of "isn't"
    | (?:(?<!\w)[+-](?=\d))?\w+
      (?: [-/._]\w+                                   # well-known, and/or, 3.5
        | (?<=\d)[,:](?=\d)\w+                        # 1,000 and 3:45
        | (?-i:(?<=[A-Z])&(?=[A-Z]))\w+               # R&B
        | (?<=[^\W\d])'(?!(?:s|m|d|re|ve|ll|n)\b)[^\W\d]+ )*   # o'clock
    | [?!]+ | \.+ | -+
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "--", "—": "--", "…": "..."})
_SPLIT = {
    "cannot": "can not", "gimme": "gim me", "gonna": "gon na", "gotta": "got ta",
    "lemme": "lem me", "wanna": "wan na",
}  # fmt: skip
_BRACKETS = dict(zip("()[]{}", "-lrb- -rrb- -lsb- -rsb- -lcb- -rcb-".split(), strict=True))
_REMOVED = re.compile(r"[\"'`.,:;?!]|\.+|-+")


def tokenize_caption(text: str) -> list[str]:
    """The words of a caption as the official scorer has them: lower case, without punctuation.

    That scorer runs Stanford's PTBTokenizer 3.4.1 (in Java) and removes a list of punctuation.
    This follows it through clitics ("is n't", "man 's"), abbreviations, numbers, quotes, and what
    its list lacks: brackets stay, as "-lrb-", and so do "!!" and "$". It may differ in rarer
    abbreviations ("calif."), initials, smileys, telephone numbers, runs of three dashes or more,
    and scripts that write no spaces.
    """
    words: list[str] = []
    for token in _TOKEN.findall(text.translate(_PLAIN)):
        token = token.lower()
        if not _REMOVED.fullmatch(token):
            words += _SPLIT.get(token, _BRACKETS.get(token, token)).split()
    return words
