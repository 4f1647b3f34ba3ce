# ruff: noqa: RUF001 (captions in other scripts hold letters that look like Latin ones)
"""A pool with the shape and size of CommonPool-small: DataComp's metadata, drawn from a seed.

    python tests/benchmarks/commonpool.py FOLDER --rows 12800000 --files 26

FOLDER gets parquet files, each named by 32 hex digits, with DataComp's columns in its order. What
real metadata has is planted: captions in many languages and scripts (about half English, some with
newlines and non-breaking spaces), CLIP scores with the published quantiles and with ties, NaN in
scores and sizes, sizes of zero, null captions, repeated rows. Sizes are int64, but float64 with NaN
in the second file of every five, as pandas writes a column with holes.

--clean leaves out null captions, on which DataComp's own code stops. --short-uids takes the leading
zero off some uids. --arrays adds the .npz of embeddings (5 kB a row) whose cosines are the scores.
--language writes FOLDER-language/, the same files with uid and the language a caption is drawn in.
The same arguments give the same rows. Memory is a row group's, and with --arrays a file's.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Array = np.ndarray[Any, np.dtype[Any]]
Generator = np.random.Generator

CHUNK = 1 << 18  # rows drawn at a time: a row group

NULL_CAPTIONS = 5e-4
NAN_SCORES = 5e-4
NO_SIZES = 1e-3  # zeros, and NaN where a file has them
ROUNDED = 0.2  # scores that passed through float16: ties
REPEATED = 1 / 32_000  # rows that are copies of a shared one; of these there are a quarter as many
WITH_FACES = 0.15
SHORT_UIDS = 0.2  # of those that begin with a zero

# The score above which a fraction of the pool lies: DataComp, table 16.
FRACTIONS = (0.01, 0.03, 0.10, 0.20, 0.30, 0.40, 0.50, 0.75, 0.90)
QUANTILES = {
    "b32": (0.384, 0.358, 0.325, 0.300, 0.281, 0.263, 0.247, 0.215, 0.193),
    "l14": (0.364, 0.334, 0.295, 0.266, 0.243, 0.222, 0.203, 0.160, 0.129),
}
CORRELATION = 0.8  # of the two scores, before they take on their quantiles
DIMENSIONS = {"b32": 512, "l14": 768}
CLUSTERS = 200  # that image embeddings lie around

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("uid", "url", "text")),
        *((name, pa.int64()) for name in ("original_width", "original_height")),
        *((f"clip_{model}_similarity_score", pa.float32()) for model in QUANTILES),
        ("face_bboxes", pa.list_(pa.list_(pa.float32()))),
        ("sha256", pa.string()),
    ]
)

# A paragraph a language: its code, its share of the pool, its words, those drawn most often first.
LANGUAGES = """
en 0.5 the of and in a for with on to by from at | - The vintage new black white red blue green
large small old free home photo image picture stock illustration vector design art print poster wall
canvas women men kids girl boy dog cat horse bird fish flower rose tree garden house kitchen
bathroom bedroom living room table chair sofa lamp door window wood wooden metal glass leather
cotton silk dress shirt shoes boots jacket coat hat bag ring necklace earrings bracelet watch gold
silver diamond wedding bride party birthday cake chocolate coffee tea bread cheese salad soup
chicken beef rice recipe easy best top how make great beautiful cute funny happy summer winter
spring autumn Christmas Halloween holiday beach ocean sea lake river mountain forest park city
street bridge church museum castle tower London Paris York California Texas map flag car truck bike
bicycle motorcycle train plane boat ship engine wheel tire battery phone laptop computer screen
camera lens case cover black-and-white pattern abstract modern classic logo business card sign label
sticker book page story movie film star music guitar piano drum football tennis golf running
swimming player team game play toy doll baby child family mother father sister brother friends woman
man people young person teacher school university office hotel restaurant shop store sale price buy
online review set pack box bottle cup plate bowl knife spoon pot pan light lights fire smoke water
ice snow rain cloud sky sun moon stars night day morning evening sunset sunrise view landscape
portrait painting drawing sketch watercolor sculpture statue stone brick marble floor roof pool
grass leaf plant fruit apple orange lemon banana strawberry grape tomato potato pepper mushroom egg
milk butter cream sugar salt close up isolated during after before near his her their our your this
that is are was were has have first second last high low long short hand made handmade custom size
length women's men's

ru 0.07 и в на с для из фото картинки купить цена в магазине новый красивый дом своими руками дети
девушка женщина мужчина собака кошка рисунок цветы зима лето осень весна город Москва улица машина
автомобиль двигатель платье обувь кольцо золото серебро свадьба торт рецепт суп мясо кухня дизайн
интерьер стол стул лампа стена дерево вода море озеро гора лес небо

de 0.06 der die das und mit für von im in auf ein eine Bild Foto Haus Wohnung Küche Garten Tisch
Stuhl Schrank Lampe Kleid Schuhe Jacke Damen Herren Kinder schwarz weiß rot blau grün groß klein neu
alt schön günstig kaufen Hund Katze Vogel Blumen Baum Berg See Straße Stadt Kirche Schloss Hochzeit
Kuchen Rezept Kaffee Wein Bier Auto Fahrrad Motor Uhr Schmuck Winter

fr 0.06 de la le les et un une des pour avec dans sur en du photo image maison appartement cuisine
jardin table chaise armoire lampe robe chaussures veste femme homme enfant noir blanc rouge bleu
vert grand petit nouveau vieux beau pas cher acheter chien chat oiseau fleurs arbre montagne lac rue
ville église château mariage gâteau recette café vin voiture vélo montre

es 0.07 de la el los las y un una para con en del por foto imagen casa piso cocina jardín mesa silla
armario lámpara vestido zapatos chaqueta mujer hombre niños negro blanco rojo azul verde grande
pequeño nuevo viejo hermoso barato comprar perro gato pájaro flores árbol montaña lago calle ciudad
iglesia castillo boda pastel receta café vino coche reloj

it 0.03 di il la e un una per con in del della foto immagine casa cucina giardino tavolo sedia
lampada vestito scarpe giacca donna uomo bambini nero bianco rosso blu verde grande piccolo nuovo
vecchio bello cane gatto uccello fiori albero montagna lago strada città chiesa

pt 0.03 de o a e um uma para com em do da foto imagem casa cozinha jardim mesa cadeira vestido
sapatos mulher homem crianças preto branco vermelho azul verde grande pequeno novo velho bonito
cachorro gato pássaro flores árvore montanha rua cidade igreja bolo receita não são

tr 0.02 ve bir için ile en çok güzel yeni eski büyük küçük ev mutfak bahçe masa sandalye elbise
ayakkabı kadın erkek çocuk siyah beyaz kırmızı mavi yeşil köpek kedi kuş çiçek ağaç dağ göl sokak
şehir cami düğün pasta tarifi kahve araba bisiklet saat fiyatı resmi fotoğraf

zh 0.05 的 在 和 图片 高清 摄影 设计 背景 素材 中国 北京 上海 城市 风景 山水 花卉 动物 小狗 小猫
女孩 男孩 美女 衣服 裙子 鞋子 手表 珠宝 家具 厨房 卧室 汽车 手机 电脑 食谱 美食 咖啡 茶叶 免费 下载
新款 价格 黑色 白色 红色 我们 这个 什么

ja 0.04 の に は を が と です ます 写真 画像 イラスト 素材 日本 東京 京都 大阪 かわいい きれいな
新しい 犬 猫 花 桜 山 海 空 家 キッチン テーブル 椅子 ドレス 靴 時計 指輪 ケーキ レシピ コーヒー 車
自転車 カメラ 無料 おすすめ 人気

ko 0.01 사진 이미지 그림 집 주방 정원 테이블 의자 드레스 신발 여자 남자 아이 검은 하얀 빨간 파란
새로운 예쁜 강아지 고양이 꽃 나무 산 바다 하늘 도시 서울 결혼 케이크 커피 자동차 시계

ar 0.02 في من على مع صور صورة بيت مطبخ حديقة طاولة كرسي فستان أحذية امرأة رجل أطفال أسود أبيض أحمر
أزرق أخضر كبير صغير جديد قديم جميل كلب قطة زهور شجرة جبل بحر مدينة زفاف كعكة قهوة
"""
UNSPACED = ("zh", "ja")
SEPARATORS = (" ", "", "\u00a0", "\n")  # what follows a word
ODD_SEPARATORS = 2e-3  # words followed by one of the last two
NUMBERS = 0.04  # tokens that are a number, in any language
WORDS_PER_CAPTION = (2.25, 0.6)  # mean and deviation of the logarithm; twice that where unspaced


@dataclass(frozen=True)
class Recipe:
    """What a pool is drawn from; shares of planted rows are constants above."""

    rows: int
    files: int
    seed: int = 0
    clean: bool = False
    short_uids: bool = False
    arrays: bool = False
    language: bool = False


class Bank:
    """Strings in groups, drawn by number; string n with suffix s has the number s * size + n."""

    def __init__(self, groups: list[list[str]], suffixes: tuple[str, ...] = ("",)) -> None:
        plain = [text for group in groups for text in group]
        self.size = len(plain)
        self.count = np.array([len(group) for group in groups])  # [groups]
        self.first = np.cumsum(self.count) - self.count  # [groups]
        self._strings = pa.array([text + suffix for suffix in suffixes for text in plain])

    def joined(self, numbers: Array, counts: Array) -> pa.StringArray:
        """[N] strings: the first counts[0] of the numbers' joined, then the next; counts >= 1."""
        taken = self._strings.take(pa.array(numbers))
        ends = np.frombuffer(taken.buffers()[1], np.int32, len(numbers) + 1)
        offsets = ends[np.concatenate([[0], np.cumsum(counts)])]
        return pa.StringArray.from_buffers(len(counts), pa.py_buffer(offsets), taken.buffers()[2])


class Captions:
    """Draws captions of the words of one language each."""

    def __init__(self) -> None:
        paragraphs = [text.split() for text in LANGUAGES.strip().split("\n\n")]
        self.codes = [code for code, *_ in paragraphs]
        shares = np.array([float(share) for _, share, *_ in paragraphs])
        self.shares = shares / shares.sum()
        self._unspaced = np.array([code in UNSPACED for code in self.codes])
        numbers = [f"{number:{'04' if number % 3 else ''}}" for number in range(1, 3000)]
        self._bank = Bank([*(words for _, _, *words in paragraphs), numbers], SEPARATORS)

    def draw(self, rng: Generator, languages: Array) -> pa.StringArray:
        """[N] captions; `languages` are numbers, [N] int."""
        bank, unspaced = self._bank, self._unspaced[languages]
        lengths = rng.lognormal(*WORDS_PER_CAPTION, len(languages)) * np.where(unspaced, 2, 1)
        counts = np.clip(lengths, 1, 80).astype(np.int64)
        language = np.repeat(languages, counts)  # [words]
        words = len(language)
        skewed = rng.random(words, np.float32) ** 1.5
        number = bank.first[language] + (skewed * bank.count[language]).astype(np.int64)
        digits = np.flatnonzero(rng.random(words, np.float32) < NUMBERS)
        number[digits] = bank.first[-1] + rng.integers(0, bank.count[-1], len(digits))
        separator = np.repeat(np.where(unspaced, 1, 0), counts)
        odd = np.flatnonzero(rng.random(words, np.float32) < ODD_SEPARATORS)
        separator[odd] = rng.integers(2, 4, len(odd))
        separator[np.cumsum(counts) - 1] = 1  # nothing after the last word
        return bank.joined(number + bank.size * separator, counts)


def url_bank() -> Bank:
    """Parts of a URL: a group for each place."""
    words = [word.lower() for word in LANGUAGES.split("\n\n")[0].split()[20:]]
    tails = (".com", ".org", ".net", ".co.uk", ".de", ".ru", ".jp", "cdn.com")
    subdomains = ("www.", "cdn.", "i0.wp.com/", "")
    hosts = [
        f"https://{sub}{word}{tail}/" for sub in subdomains for word in words for tail in tails
    ]
    folders = ["images/", "wp-content/uploads/2019/07/", "media/catalog/product/", "img/p/", "a/"]
    names = [f"{word}-" for word in words]
    numbers = [f"{number:04x}" for number in range(1 << 16)]
    ends = [".jpg", ".png", ".jpeg", "-600x400.jpg", "_large.jpg?v=1", ".webp"]
    return Bank([hosts, folders, names, names, numbers, numbers, ends])


def hexadecimal(rng: Generator, rows: int, digits: int) -> pa.StringArray:
    """[rows] random strings of hex digits."""
    pairs = np.array([f"{byte:02x}" for byte in range(256)], "S2")
    raw = np.frombuffer(rng.bytes(rows * digits // 2), np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * digits
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(pairs[raw]))


def scores(rng: Generator, rows: int) -> dict[str, Array]:
    """[rows] float32 cosines per model, correlated, with the published quantiles."""
    shared, own = rng.standard_normal((2, rows), np.float32)
    normal = {"b32": shared, "l14": CORRELATION * shared + np.sqrt(1 - CORRELATION**2) * own}
    at = np.array([NormalDist().inv_cdf(1 - fraction) for fraction in FRACTIONS])[::-1]
    drawn = {}
    for model, values in QUANTILES.items():
        known = np.array(values)[::-1]
        slopes = np.diff(known) / np.diff(at)  # carried on beyond the first and the last
        low, high = known[0] - (at[0] + 6) * slopes[0], known[-1] + (6 - at[-1]) * slopes[-1]
        score = np.interp(normal[model], [-6, *at, 6], [low, *known, high]).astype(np.float32)
        coarse = rng.random(rows, np.float32) < ROUNDED
        score[coarse] = score[coarse].astype(np.float16)
        score[rng.random(rows, np.float32) < NAN_SCORES] = np.nan
        drawn[model] = score
    return drawn


def sizes(rng: Generator, rows: int) -> tuple[Array, Array]:
    """[rows] widths and heights in pixels; some are zero, some sit on what filters ask for."""
    width = np.exp(rng.normal(6.1, 0.75, rows)).astype(np.int64) + 1
    ratio = np.exp(rng.normal(-0.15, 0.4, rows))
    usual = rng.random(rows, np.float32) < 0.3
    width[usual] = rng.choice([150, 199, 200, 201, 300, 600, 800, 1024], int(usual.sum()))
    ratio[usual] = rng.choice([1 / 3, 0.5, 2 / 3, 0.75, 1, 1.5, 3, 3.2], int(usual.sum()))
    height = np.maximum(1, np.rint(width * ratio)).astype(np.int64)
    width[rng.random(rows, np.float32) < NO_SIZES] = 0
    height[rng.random(rows, np.float32) < NO_SIZES] = 0
    return width, height


def faces(rng: Generator, rows: int) -> pa.ListArray:
    """[rows] lists of boxes (x1, y1, x2, y2), each in 0..1 of the picture."""
    counts = np.where(rng.random(rows, np.float32) < WITH_FACES, rng.integers(1, 4, rows), 0)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    corner = rng.random((offsets[-1], 2), np.float32) * 0.8
    boxes = np.concatenate([corner, corner + 0.02 + rng.random(corner.shape, np.float32) * 0.18], 1)
    inner = np.arange(offsets[-1] + 1, dtype=np.int32) * 4
    return pa.ListArray.from_arrays(offsets, pa.ListArray.from_arrays(inner, boxes.ravel()))


class Drawing:
    """Draws rows of one pool; what does not depend on a row is made once."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._captions, self._urls = Captions(), url_bank()
        shared = max(2, round(recipe.rows * REPEATED / 4))
        self._shared = self.rows(np.random.default_rng((recipe.seed, 2)), shared)

    def rows(self, rng: Generator, rows: int) -> pa.Table:
        """`SCHEMA` and, last, the language."""
        languages = rng.choice(len(self._captions.codes), rows, p=self._captions.shares)
        text = self._captions.draw(rng, languages)
        if not self.recipe.clean:
            absent = pa.array(rng.random(rows) < NULL_CAPTIONS)
            text = pc.if_else(absent, pa.scalar(None, pa.string()), text)
        places = len(self._urls.count)
        part = self._urls.first + rng.integers(0, self._urls.count, (rows, places))
        url = self._urls.joined(part.ravel(), np.full(rows, places))
        columns = [
            self._uids(rng, rows), url, text, *sizes(rng, rows), *scores(rng, rows).values(),
            faces(rng, rows), hexadecimal(rng, rows, 64),
        ]  # fmt: skip
        codes = pa.array(self._captions.codes).take(pa.array(languages))
        return pa.table(columns, SCHEMA).append_column("language", codes)

    def chunks(self, number: int, rows: int) -> Iterator[pa.Table]:
        """The rows of one file, with copies of shared rows among them."""
        for chunk, start in enumerate(range(0, rows, CHUNK)):
            rng = np.random.default_rng((self.recipe.seed, 3, number, chunk))
            table = self.rows(rng, min(CHUNK, rows - start))
            copies = rng.random(len(table)) < max(REPEATED, 8 / self.recipe.rows)
            pieces, done = [], 0
            for place in np.flatnonzero(copies).tolist():
                copied = self._shared.slice(int(rng.integers(len(self._shared))), 1)
                pieces += [table.slice(done, place - done), copied]
                done = place + 1
            table = pa.concat_tables([*pieces, table.slice(done)])
            yield with_holes(rng, table) if number % 5 == 1 else table

    def _uids(self, rng: Generator, rows: int) -> pa.StringArray:
        uids = hexadecimal(rng, rows, 32)
        if not self.recipe.short_uids:
            return uids
        lost = pc.and_(pc.starts_with(uids, "0"), pa.array(rng.random(rows) < SHORT_UIDS))
        return pc.if_else(lost, pc.utf8_slice_codeunits(uids, 1), uids)


def with_holes(rng: Generator, table: pa.Table) -> pa.Table:
    """The table with sizes as float64, some of them NaN."""
    for name in ("original_width", "original_height"):
        values = table[name].to_numpy().astype(np.float64)
        values[rng.random(len(values)) < NO_SIZES] = np.nan
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values, from_pandas=False))
    return table


def embeddings(recipe: Recipe, number: int, cosines: dict[str, Array]) -> dict[str, Array]:
    """{b32,l14}_{img,txt} of one file: [N, D] float16, of length 1, with products `cosines`.

    A text whose score is NaN is at right angles to its image.
    """
    made = {}
    for model, cosine in cosines.items():
        rng = np.random.default_rng((recipe.seed, 4, number, DIMENSIONS[model]))
        fixed = np.random.default_rng((recipe.seed, 5))  # the same clusters in every file
        centres = fixed.standard_normal((CLUSTERS, DIMENSIONS[model]), np.float32)
        image = centres[rng.integers(0, CLUSTERS, len(cosine))]  # [N, D]
        image += 1.5 * rng.standard_normal(image.shape, np.float32)
        image /= np.linalg.norm(image, axis=1, keepdims=True)
        aside = rng.standard_normal(image.shape, np.float32)
        aside -= (aside * image).sum(1, keepdims=True) * image
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        along = np.nan_to_num(cosine)[:, None]  # [N, 1]
        made[f"{model}_img"] = image.astype(np.float16)
        made[f"{model}_txt"] = (along * image + np.sqrt(1 - along**2) * aside).astype(np.float16)
    return made


def write_file(drawing: Drawing, file: Path, number: int, rows: int) -> None:
    """Write one parquet file, and what the recipe asks for beside it."""
    recipe = drawing.recipe
    kept = []
    chunks = drawing.chunks(number, rows)
    first = next(chunks, SCHEMA.append(pa.field("language", pa.string())).empty_table())
    with pq.ParquetWriter(file, first.schema.remove(len(SCHEMA)), use_dictionary=False) as writer:
        for chunk in itertools.chain([first], chunks):
            writer.write_table(chunk.drop_columns("language"))
            kept.append(chunk.select(["uid", "language", *SCHEMA.names[5:7]]))
    beside = pa.concat_tables(kept)
    if recipe.language:
        folder = Path(f"{file.parent}-language")
        folder.mkdir(exist_ok=True)
        pq.write_table(beside.select(["uid", "language"]), folder / file.name)
    if recipe.arrays:
        cosines = {
            model: beside[f"clip_{model}_similarity_score"].to_numpy() for model in QUANTILES
        }
        arrays: dict[str, Any] = embeddings(recipe, number, cosines)
        np.savez_compressed(file.with_suffix(".npz"), **arrays)


def make_pool(folder: Path, recipe: Recipe) -> None:
    """Write the pool to `folder`, which is made; files differ by up to a factor of two in rows."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing = Drawing(recipe)
    rng = np.random.default_rng((recipe.seed, 1))
    ends = np.cumsum(rng.uniform(0.7, 1.3, recipe.files))
    ends = np.rint(ends / ends[-1] * recipe.rows).astype(np.int64)
    for number, rows in enumerate(np.diff(ends, prepend=0).tolist()):
        write_file(drawing, folder / f"{rng.bytes(16).hex()}.parquet", number, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for option, default in (("--rows", 12_800_000), ("--files", 26), ("--seed", 0)):
        parser.add_argument(option, type=int, default=default)
    for option in ("--clean", "--short-uids", "--arrays", "--language"):
        parser.add_argument(option, action="store_true", help="see above")
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: give another folder")
    make_pool(folder, Recipe(**options))


if __name__ == "__main__":
    main()
