"""Words that every text is full of, by language: alone they say nothing about what a text wants."""

from __future__ import annotations

LIGHT_WORDS: dict[str, tuple[str, ...]] = {
    language: tuple(words.split())
    for language, words in {
        "en": "the a an and or but if of in on at by for with from to into as is are was were be been being am has have had do "
        "does did it its this that these those there here he she they them his her their we us our i me my you your yours "
        "who which what when where why how not no yes so than then too very can could will would shall should may might must "
        "just also only any some all each every more most other such own same up out over under again about after before "
        "between through during s t d ll re ve m",
        "de_DE": "der die das den dem des ein eine einer eines einem einen und oder aber in im an am auf aus bei mit nach seit von "
        "vom zu zum zur um für durch gegen ohne über unter vor ist sind war waren wird werden wurde hat haben hatte sein "
        "nicht kein keine auch nur noch schon sehr so wie als wenn dass weil ich du er sie es wir ihr mich mir dich dir sich "
        "mein dein seine ihre was wer wo man uber fur",
        "fr_FR": "le la les un une des du de d l et ou mais dans en sur sous par pour avec sans chez est sont était ont a ai as été "
        "être avoir ne pas plus aussi très je tu il elle nous vous ils elles me te se mon ton son ma ta sa mes tes ses ce "
        "cette ces qui que quoi où quand comment au aux y ou si",
        "es_ES": "el la los las un una unos unas y o pero de del en a al con sin por para sobre entre es son era fue ser está están "
        "ha han no sí muy más también yo tú él ella nosotros ellos me te se mi tu su mis tus sus que qué quién cómo cuándo "
        "dónde lo le les si",
        "nl_NL": "de het een en of maar in op aan bij met van voor uit om te naar is zijn was waren heeft hebben had niet geen ook "
        "nog wel zo als dan dat die dit deze ik je jij u hij zij we wij ze mijn jouw uw haar wie wat waar hoe er",
        "it_IT": "il lo la i gli le un uno una e o ma di del della dei in nel nella a al alla da dal con su per tra è sono era ha "
        "hanno ho non più anche molto io tu lui lei noi voi mi ti si mio tuo suo che chi come quando dove se",
    }.items()
}
