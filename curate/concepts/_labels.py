"""From what a language detector says to the language of a list of entries: a Wikipedia's code."""

from __future__ import annotations

from collections.abc import Iterable

OTHER = "other"  # MetaCLIP 2's list for all languages that have none of their own

# Where a Wikipedia's code is not the ISO 639 code, and other codes of the same language; MetaCLIP 2
# counts all that is written in Chinese characters as zh where the list has no more of it.
_OTHER_NAMES = {
    "yue": "zh_yue zh", "lzh": "zh_classical zh", "wuu": "zh", "gan": "zh", "nan": "zh_min_nan",
    "zh_yue": "zh", "zh_classical": "zh", "cmn": "zh", "cbk": "cbk_zam", "gsw": "als",
    "rup": "roa_rup", "sgs": "bat_smg", "vro": "fiu_vro", "bho": "bh", "nb": "no", "nob": "no",
    "fil": "tl", "iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro", "hbs": "sh",
    "arb": "ar", "pes": "fa", "ekk": "et", "lvs": "lv", "zsm": "ms", "npi": "ne",
    "ory": "or", "swh": "sw", "uzn": "uz", "khk": "mn", "plt": "mg",
    "azj": "az", "gaz": "om", "kmr": "ku", "pbt": "ps", "quy": "qu", "ydd": "yi", "dik": "din",
}  # fmt: skip

# ISO 639-3 and 639-1, as in `eng_Latn` of detectors with many languages.
_PAIRS = """
aar aa abk ab afr af aka ak amh am ara ar arg an asm as ava av ave ae aym ay aze az bak ba bam bm
bel be ben bn bis bi bod bo bos bs bre br bul bg cat ca ces cs cha ch che ce chu cu chv cv cor kw
cos co cre cr cym cy dan da deu de div dv dzo dz ell el eng en epo eo est et eus eu ewe ee fao fo
fas fa fij fj fin fi fra fr fry fy ful ff gla gd gle ga glg gl glv gv grn gn guj gu hat ht hau ha
heb he her hz hin hi hmo ho hrv hr hun hu hye hy ibo ig ido io iii ii iku iu ile ie ina ia ind id
ipk ik isl is ita it jav jv jpn ja kal kl kan kn kas ks kat ka kau kr kaz kk khm km kik ki kin rw
kir ky kom kv kon kg kor ko kua kj kur ku lao lo lat la lav lv lim li lin ln lit lt ltz lb lub lu
lug lg mah mh mal ml mar mr mkd mk mlg mg mlt mt mon mn mri mi msa ms mya my nau na nav nv nbl nr
nde nd ndo ng nep ne nld nl nno nn nor no nya ny oci oc oji oj ori or orm om oss os pan pa pli pi
pol pl por pt pus ps que qu roh rm ron ro run rn rus ru sag sg san sa sin si slk sk slv sl sme se
smo sm sna sn snd sd som so sot st spa es sqi sq srd sc srp sr ssw ss sun su swa sw swe sv tah ty
tam ta tat tt tel te tgk tg tgl tl tha th tir ti ton to tsn tn tso ts tuk tk tur tr twi tw uig ug
ukr uk urd ur uzb uz ven ve vie vi vol vo wln wa wol wo xho xh yid yi yor yo zha za zho zh zul zu
"""

_CODES = {
    **dict(zip(_PAIRS.split()[::2], _PAIRS.split()[1::2], strict=True)),
    **_OTHER_NAMES,
}


def list_of(label: str, languages: Iterable[str]) -> str | None:
    """The language of a list that a detector's label stands for; None where the list has none.

    A label is looked for as it is, then by the Wikipedia code of the same language, then both again
    without its script or region (`zh-Latn`, `eng_Latn`). All else is `other`, if the list has that.

    Args:
        label: ISO 639 or Wikipedia code, as fastText, cld3 and others give it.
        languages: Those of the list, Wikipedia codes.
    """
    known = set(languages)
    code = label.strip().lower().replace("-", "_")
    bare = code.partition("_")[0]
    tried = (label, code, *_same(code), bare, *_same(bare), OTHER)
    return next((one for one in tried if one in known), None)


def _same(code: str) -> list[str]:
    """What else a language is called, the best first."""
    return _CODES.get(code, "").split()
