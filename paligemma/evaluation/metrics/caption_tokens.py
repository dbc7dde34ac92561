"""The words of captions that CIDEr-D counts: Stanford's PTB tokens without punctuation.

    tokenize_caption("A man's dog, isn't it?")  # ["a", "man", "'s", "dog", "is", "n't", "it"]

Source: pycocoevalcap's `PTBTokenizer`, which runs stanford-corenlp-3.4.1.jar.
"""

import re

_ABBREVIATIONS = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri "
    "ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn "
    "tenn va vt wis wisc wyo (?-i:Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash) "
    "assn bancorp bhd bldg blvd co corp cos dept esq est etc ext inc intl jr ltd natl plc pte ptes "
    "pty rd rt sq sr sys tel univ al cf ed\\.d ph ph\\.d vs "
    "adj adm adv assoc asst atty attys ave brig bros capt cmdr col comdr cpl det dr drs ens ft gen "
    "gov govs hon insp lieut lt maj messrs mlle mme mr mrs ms msgr mt pfc pres prof profs pvt rep "
    "reps rev sen sens sfc sgt spc st ste supt supts"
)
_TOKEN = re.compile(
    rf"""
    </?[a-z!][^<>]*>                                  # markup
    | (?:https?://|www\.)[^\s"<>]*[\w/]               # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | [@#](?-i:[A-Za-z])\w*
    | (?<!\w)c\+\+(?!\w) | (?<!\w)[cf]\#(?!\w)        # languages
    | (?<!\w)(?:[a-z]\.){{2,}}(?:-\w+)*(?!\w)         # u.s., e.g. and u.s.-made
    | (?<!\w)(?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w)
    | (?<!\w)[a-z]\.(?!\w)(?-i:(?!\s+[A-Z]))          # letters, but at the end of a sentence
    | (?<!\w)no\.(?=\s*\d)
    | (?<!\w)'t(?=(?:is|was)\b) | (?<!\w)'n'(?!\w) | (?<!\w)'(?:em|cause|till?|n)\b
    | (?<!\w)'[0-9]{{2}}s?\b                          # '90s
    | (?<!\w)y'(?=\w)                                 # the "y'" of "y'all"
    | (?<=\w)'n'(?=\w) | (?<=\w)'(?:s|m|d|re|ve|ll|n)\b | (?<=\w)n't\b
    | [a-z]+?(?=n't\b)                                # the "is" of "isn't"
    | \d+(?::\d+)+(?=[a-z])                           # the time of "10:30pm"
    | (?<![\w.])-?\.\d+                               # .5
    | (?:(?<!\w)[+-](?=\d))?[^\W_]\w*
      (?: [-/._]\w+                                   # well-known, and/or, 3.5
        | (?<=\d)[,:](?=\d)\w+                        # 1,000 and 3:45
        | (?-i:(?<=[A-Z])&(?=[A-Z]))\w+               # R&B
        | (?<=[^\W\d])'(?!(?:s|m|d|re|ve|ll|n)\b)[^\W\d]+ )*   # o'clock
    | [?!]+ | \.+ | -+ | \*+ | _+
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REPLACED = str.maketrans({
    "“": '"', "”": '"', "‘": "'", "’": "'", "–": "--", "—": "--", "…": "...",
    "½": " 1/2 ", "⅓": " 1/3 ", "⅔": " 2/3 ", "¼": " 1/4 ", "¾": " 3/4 ",
    "€": "$", "¤": "$", "£": "#", "¢": " cents ",
})  # fmt: skip
_UNKNOWN = re.compile("[\U00010000-\U0010ffff\u200b-\u200f\ufe0e\ufe0f]")  # such as emoji
_REWRITTEN = {
    "cannot": "can not", "gimme": "gim me", "gonna": "gon na", "gotta": "got ta",
    "lemme": "lem me", "wanna": "wan na",
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_REMOVED = re.compile(r"[\"'`.,:;?!]|\.+|-+")


def tokenize_caption(text: str) -> list[str]:
    """The words of a caption as the official scorer has them: lower case, without punctuation.

    That scorer runs Stanford's PTBTokenizer 3.4.1 (in Java) and removes a list of punctuation.
    This follows it through clitics ("is n't", "man 's"), abbreviations, numbers, quotes, symbols,
    and what its list lacks: brackets stay, as "-lrb-", and so do "!!" and "$". It may differ where
    words are written without a space between them, in smileys and in telephone numbers.
    """
    words: list[str] = []
    for found in _TOKEN.finditer(_UNKNOWN.sub(" ", text.translate(_REPLACED))):
        token: str = found[0].lower()
        if not _REMOVED.fullmatch(token):
            words += _REWRITTEN.get(token, token).split()
    return words
