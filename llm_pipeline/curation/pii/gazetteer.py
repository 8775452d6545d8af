"""Names, common words and places of many locales, from Faker's lists (no model, no network)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from llm_pipeline.errors import ConfigError

# Words that begin with a capital in headings, products and places; beside Faker's list of common English words.
_COMMON = (
    "a an and as at be by can do for go he her his i if in is it may me my no of on or our she so the their this to up us was we will you "
    "april august bank best call card case cash chance dear hello hi good great day fee free home hope june joy law mark may new price "
    "rich rose sales sunny thanks thank van von young your street road avenue lane drive close court way university college school "
    "hospital "
    "church station river lake mountain island bay beach park square bridge county city town village valley north south east west central "
    "national international american british english french german spanish italian european asian african inc ltd llc plc corp gmbh "
    "company "
    "group holdings foundation institute association society committee department ministry office court press news times post journal "
    "award "
    "prize theorem law model method test algorithm distribution function process equation effect rule number code type class error union "
    "sons brothers report data service software system version python java linux windows google apple amazon microsoft internet web site "
    "team world everyone everybody folks guys friends colleagues support hiring manager applicant applicants editor members parents "
    "students "
    "reader readers valued santa diary god sirs madams neighbour neighbor jury council board staff community passengers guests "
    "please note see also when where what who why how which while after before during since until because although however here there then "
    "agent customer user client server account savings credit debit loan premium standard student travel summit january february march "
    "july "
    "september october november december monday tuesday wednesday thursday friday saturday sunday mr mrs ms miss dr prof sir madam lord "
    "lady "
    "king queen prince princess president minister senator judge captain general colonel major saint st san santa los las el la le les "
    "der die "
    "das den del di da de du des un una une eine einen your yours ours unit apartment flat floor suite box po p.o sincerely regards cheers "
    "shipping billing address email phone fax mobile name date birth number from subject sent patient employee applicant candidate "
    "in-person one two three four five six seven eight nine ten first second third last next many most some any all each every both few "
    "art page gene faith grace angel star summer autumn winter spring rainy stormy sky ocean forest garden charity honor justice liberty "
    "victory destiny harmony melody patience prudence constant merit royal noble sterling crystal diamond pearl ruby amber ivory ebony "
    "coral "
    "opal jade scarlet violet olive lily daisy iris hazel ginger sage basil rosemary clay cliff dale glen heath reed rod bob nick pat "
    "rob sue "
    "bill chip chuck dick drew frank jack jimmy john-boy max miles pierce ray skip ward wade chase hunter mason cooper carter taylor "
    "tailor "
    "jan feb mar apr jun jul aug sep sept oct nov dec altogether therefore combined initially originally currently finally meanwhile "
    "otherwise instead besides afterwards additionally furthermore moreover hence overall together similarly likewise consequently "
    "valid mad made uri duke atlas venus comfort mari love decisions compiled governor "
    "fort mars comet muslim fancy ninja mercy league brotherhood "
    "does did has had have not now than them they these those thus too very via vs with within without would yes yet"
).split()
_USUAL_FIRST = (
    "bill bob chuck drew frank jack max nick pat ray rob sue grace rose mark hazel iris lily ruby violet daisy scarlet jade amber angel "
    "faith "
    "olive ginger crystal mason hunter cooper carter taylor miles wade chase rosemary glen dale reed will victoria charlotte florence "
    "sydney "
    "austin jordan paris chelsea jan guy mark gene dean earl art jun summer peace blessing patience ivy april june may dawn carol robin "
    "jean holly penny heather sandy randy chance angela"
).split()
"""Words that are common, yet as often a first name: with a last name behind them they are one."""


_MORE_FIRST = (
    # in Latin letters, which Faker's lists of these languages are not: Arabic, Persian, Hebrew, Russian, West African, Indian, Korean ...
    "ahmed ahmad mohamed mohammed muhammad mahmoud mustafa ali omar khalid khaled hassan hussein ibrahim youssef yusuf karim tariq "
    "samir nabil faisal hamza bilal rashid salim jamal adel walid ziad amir reza mehdi hamid noor nour fatima aisha maryam mariam "
    "layla leila zainab zahra khadija salma yasmin amina huda rania dina samira nadia hanan farah lina sara rana shirin nasrin "
    "parisa eitan avi noam yael shira tamar moshe yosef chaim dov oren amit itai uri ilan talia noa michal dalia rivka dmitri "
    "dmitry sergei sergey alexei aleksei andrei vladimir nikolai mikhail yuri igor oleg pavel boris viktor anton maxim ivan artem "
    "svetlana irina olga tatiana natalia elena ekaterina anastasia ksenia galina lyudmila oksana polina daria yulia jung min hyun "
    "ngozi chidi emeka chinedu oluwaseun babatunde folake adaeze kwame kofi ama akua amara nia thandi sipho nomsa lwazi priya rahul "
    "rohan anjali deepak vikram sanjay sunita kavita lakshmi arjun aditya meera neha pooja ravi suresh anil sunil wei fang xiu mei "
    "ling jing yan xiaoming lihua yuxuan zhen jun hao chen minh quang duc huong thi lan anh yuki haruto sakura naoko daichi kenji "
    "hiroshi takeshi yumi aiko harpreet gurpreet manpreet jaspreet simran siobhán siobhan niamh aoife saoirse caoimhe róisín rosalind "
    "thandiwe lindiwe nomvula thabo leilani kailani malia keanu sione aroha tane wiremu moana kalani will summer peace blessing patience "
    "autumn faith hope joy"
).split()
_MORE_LAST = (
    "hassan hussein mansour nasser haddad khalil saleh hamdan khoury farouk benali abdullah al-sayed el-sayed elsayed aziz rahman "
    "hashimi hosseini ahmadi karimi rezaei mohammadi cohen levi levy mizrahi peretz friedman shapiro katz ben-david goldberg "
    "azoulay biton ivanov ivanova petrov petrova smirnov smirnova kuznetsov kuznetsova popov popova sokolov sokolova volkov volkova "
    "morozov morozova novikov novikova fedorov fedorova kim lee park choi jung jeong kang cho yoon jang lim han shin seo kwon hwang "
    "ahn song yoo hong moon bae baek okafor okonkwo eze nwosu adeyemi olatunji abiola adebayo balogun obi mensah owusu boateng "
    "asante osei dlamini nkosi ndlovu khumalo sharma patel gupta singh kumar reddy iyer nair menon prakash shenoy chopra kapoor "
    "mehta joshi desai wu wang zhang liu chen yang huang zhao zhou xu sun ma zhu hu guo lin luo liang xie tang zheng feng nguyen "
    "tran pham hoang phan vu vo dang bui ngo duong suzuki sato tanaka yamamoto nakamura kobayashi watanabe ito kato yoshida yamada "
    "sasaki"
).split()
SYLLABLES = frozenset(
    (
        "ji hoon min jun hyun woo soo jin young ho sang hee eun kyung hye won seung jae dong yeon mi sun sung ki tae kyu joon ah ra na "
        "yu seo in su jung chul nam bin hwa kwang myung yong gyu gi geun ha rim rin ye do yun woong"
    ).split()
)
"""Of Korean first names, which are written with a hyphen in Latin letters."""
_BRANDS = (
    "jim beam,jack daniels,jack daniel,johnnie walker,captain morgan,earl grey,lady grey,granny smith,bloody mary,"
    "tom collins,shirley temple,long john,arnold palmer,harvey wallbanger,dr pepper,mr clean,mrs meyer,mr muscle,"
    "dr martens,dr oetker,dr scholl,uncle ben,aunt jemima,ben jerry,betty crocker,sara lee,marie callender,oscar mayer,"
    "jimmy dean,duncan hines,orville redenbacher,chef boyardee,famous amos,mary jane,mary janes,ralph lauren,calvin klein,"
    "tommy hilfiger,hugo boss,giorgio armani,christian dior,coco chanel,yves saint,louis vuitton,jimmy choo,ted baker,"
    "laura ashley,paul smith,michael kors,marc jacobs,kate spade,vera wang,ralph laurent,tory burch,donna karan,jean paul,"
    "karl lagerfeld,stella mccartney,vivienne westwood,alexander mcqueen,guy laroche,nina ricci,hermann miller,"
    "herman miller,philippe starck,estee lauder,estée lauder,elizabeth arden,mary kay,bobbi brown,helena rubinstein,"
    "jo malone,charlotte tilbury,max factor,harley davidson,aston martin,alfa romeo,rolls royce,mercedes benz,land rover,"
    "john deere,massey ferguson,john lewis,marks spencer,harry winston,fred perry,wendy's,trader joe,papa john,carl's jr,"
    "jersey mike,jimmy john,little caesar,charles schwab,morgan stanley,merrill lynch,wells fargo,jp morgan,goldman sachs,"
    "ernst young,booz allen,johns hopkins,carnegie mellon,madame tussauds,santa claus,peter pan,harry potter,mickey mouse,"
    "donald duck,ronald mcdonald,john doe,jane doe,joe bloggs,max mustermann,erika mustermann,mario rossi,tom yum,"
    "jerry can,mac mini,mac pro,mercedes-benz,eli lilly,walt disney,john hancock,levi strauss,edward jones,raymond james,dow jones,"
    "barnes noble,williams sonoma,baker hughes,kenneth cole,perry ellis,samuel adams,sam adams,jose cuervo,jack wills,charles tyrwhitt,"
    "sherwin williams,abercrombie fitch,dolce gabbana,freddie mac,fannie mae,rolls-royce,harvey nichols,philip morris,"
    "jackson hole,ben & jerry,johnson & johnson,dr who,"
    "jack russell,king charles,mason jar,murphy bed"
)
"""Names of persons (and look-alikes of them) that mean a drink, a dish, a firm, a place or nobody."""


@lru_cache(maxsize=1)
def brands() -> frozenset[str]:
    return frozenset(_BRANDS.split(","))


@lru_cache(maxsize=8)
def names(locales: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Lower-case (first names, last names) of the Faker `locales`; names of several words give each long word."""
    first: set[str] = set()
    last: set[str] = set()
    for locale in locales:
        try:
            provider = import_module(f"faker.providers.person.{locale}").Provider
        except ModuleNotFoundError:
            raise ConfigError(f"name_locales: received {locale!r}, expected a locale of Faker such as 'en_US'") from None
        for attribute in dir(provider):
            if attribute.startswith(("first_names", "first_romanized_names")):
                first.update(_words(getattr(provider, attribute)))
            elif attribute.startswith(("last_names", "last_romanized_names")):
                last.update(_words(getattr(provider, attribute)))
    return frozenset(first | set(_MORE_FIRST)), frozenset(last | set(_MORE_LAST))


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """Lower-case English words that a capital does not make a name."""
    listed = import_module("faker.providers.lorem.en_US").Provider.word_list
    return frozenset([*listed, *_COMMON])


def usual_first_names() -> frozenset[str]:
    return frozenset(_USUAL_FIRST)


@lru_cache(maxsize=1)
def place_words() -> frozenset[str]:
    """Lower-case names of countries, states and some great cities: alone they are no person."""
    american, world = _addresses("en_US"), _addresses("en")
    cities = (
        "london paris berlin madrid rome vienna lisbon dublin sydney melbourne brisbane perth adelaide toronto montreal vancouver chicago "
        "boston houston dallas austin phoenix denver seattle detroit atlanta miami orlando charlotte savannah florence milan verona siena "
        "victoria jordan georgia chad israel india kenya carolina dakota virginia asia europe africa america china brooklyn manhattan"
    ).split()
    return frozenset([*(word for name in (*american.states, *world.countries) for word in name.lower().split()), *cities])


def _words(listed: object) -> set[str]:
    """Faker's lists are of names or of (name, weight) pairs."""
    found: set[str] = set()
    for item in listed if isinstance(listed, list | tuple | dict | set | frozenset) else ():
        name = item if isinstance(item, str) else item[0] if isinstance(item, tuple) and isinstance(item[0], str) else ""
        found.update(word.lower() for word in re.split(r"[\s-]+", name) if len(word) > 1)
    return found


@lru_cache(maxsize=1)
def street_suffixes() -> tuple[str, ...]:
    """Words that end an English street name, long ones first."""
    listed = [word for locale in ("en_US", "en_GB", "en_AU") for word in _addresses(locale).street_suffixes]
    short = {
        "St",
        "Ave",
        "Rd",
        "Ln",
        "Dr",
        "Ct",
        "Blvd",
        "Pkwy",
        "Pl",
        "Sq",
        "Ter",
        "Hwy",
        "Cl",
        "Cres",
        "Boulevard",
        "Close",
        "Way",
        "Mews",
    }
    return tuple(sorted({*(word.title() for word in listed), *short}, key=lambda word: (-len(word), word)))


@lru_cache(maxsize=1)
def street_prefixes() -> tuple[str, ...]:
    """Words before the name of a Spanish, Portuguese or Italian street, long ones first."""
    listed = [word for locale in ("es_ES", "pt_PT") for word in _addresses(locale).street_prefixes]
    more = {
        "Calle",
        "C/",
        "Avenida",
        "Avda.",
        "Av.",
        "Carrer",
        "Via",
        "Viale",
        "Piazza",
        "Corso",
        "Vicolo",
        "Rua",
        "Strada",
        "Largo",
        "Borgo",
        "Contrada",
        "Rotonda",
        "Incrocio",
        "Stretto",
        "Canale",
    }
    return tuple(sorted({*(word for word in listed if len(word) > 2), *more}, key=lambda word: (-len(word), word)))


def _addresses(locale: str) -> Any:
    return import_module(f"faker.providers.address.{locale}").Provider
