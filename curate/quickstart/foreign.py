# ruff: noqa: RUF001 -- Russian and Greek letters that look like Latin ones are meant
"""Captions in other languages, each of a drawing of one figure in one colour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A sentence in `language` (ISO 639-1) that describes a drawing of the figure."""

    language: str
    figure: str
    colour: str
    sentence: str


FOREIGN = (
    Foreign("de", "house", "red", "Ein Haus mit einem roten Dach und zwei blauen Fenstern"),
    Foreign("de", "tree", "green", "Ein grüner Baum mit einem kräftigen braunen Stamm"),
    Foreign(
        "de", "fish", "orange", "Die Zeichnung zeigt einen orangefarbenen Fisch mit großem Auge"
    ),
    Foreign("de", "umbrella", "purple", "Ein lila Regenschirm mit einem Griff aus Holz"),
    Foreign("de", "snail", "yellow", "Eine gelbe Schnecke trägt ihr rundes Haus auf dem Rücken"),
    Foreign("fr", "cat", "gray", "La tête d'un chat gris avec de grands yeux jaunes"),
    Foreign("fr", "flower", "pink", "Une fleur rose avec une longue tige verte"),
    Foreign("fr", "boat", "red", "Un petit bateau rouge avec deux voiles claires"),
    Foreign("fr", "balloon", "blue", "Un ballon bleu attaché à une ficelle grise"),
    Foreign("fr", "key", "yellow", "Le dessin montre une clé jaune avec deux dents"),
    Foreign("es", "car", "blue", "Un coche azul con dos ruedas negras y ventanas claras"),
    Foreign("es", "sun", "yellow", "El sol amarillo brilla con muchos rayos puntiagudos"),
    Foreign("es", "apple", "red", "Una manzana roja con una hoja verde en el tallo"),
    Foreign("es", "mountain", "purple", "Una montaña morada con nieve blanca en la cumbre"),
    Foreign("it", "butterfly", "orange", "Una farfalla arancione con le ali aperte"),
    Foreign("it", "ice cream cone", "pink", "Un gelato rosa con due palline su un cono marrone"),
    Foreign("it", "chair", "brown", "Il disegno mostra una sedia marrone vista di lato"),
    Foreign("pt", "bird", "yellow", "Um pássaro amarelo com bico e pernas de cor laranja"),
    Foreign("pt", "cactus", "green", "Um cacto verde com dois braços no deserto"),
    Foreign("nl", "truck", "green", "Een groene vrachtwagen met twee zwarte wielen"),
    Foreign("nl", "lamp", "orange", "Een oranje schemerlamp op een grijze voet"),
    Foreign("pl", "rocket", "gray", "Szara rakieta kosmiczna z pomarańczowym płomieniem"),
    Foreign("pl", "mushroom", "red", "Czerwony grzyb w białe kropki rosnący w lesie"),
    Foreign("ru", "star", "red", "Большая красная звезда с пятью лучами"),
    Foreign("ru", "book", "green", "Раскрытая книга в зелёной обложке"),
    Foreign("ru", "cup", "blue", "Синяя чашка с круглой ручкой стоит на столе"),
    Foreign("ja", "snowman", "gray", "黒い帽子をかぶった雪だるまの絵です"),
    Foreign("ja", "crown", "yellow", "黄色い王冠のイラストです"),
    Foreign("ja", "robot", "blue", "青いロボットが立っています"),
    Foreign("zh", "candle", "red", "一根点燃的红色蜡烛"),
    Foreign("zh", "cloud", "gray", "天上飘着一朵灰色的云"),
    Foreign("tr", "clock", "green", "Yuvarlak yeşil bir duvar saati üçü gösteriyor"),
    Foreign("sv", "envelope", "pink", "Ett rosa kuvert som ligger på ett bord"),
    Foreign("el", "heart", "red", "Μια μεγάλη κόκκινη καρδιά"),
)
