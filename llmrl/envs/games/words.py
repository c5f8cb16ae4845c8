"""The words of wordle, by their length; common ones first in each list."""

from __future__ import annotations

from collections.abc import Mapping

_THREE = """
cat dog sun map pen red box bus cup hat ice jam key leg man net owl pie rat sea tea van web yes zoo ant bag cow day ear
fan gas hen ink job kit lip mud nut oil pig run sky toy wax fox gum ham ivy jar lid mix nap oak pan rib saw tin urn vet
wig yak arm bat can den egg fig gap hop inn jet log mop now odd pot rug sad tap use vow wet add bed cap dry end fin gem
hip jog law mat nod one pin row six ten two win bee cry dip era fog god hug kid low mob pay rim sit tie war eye air
"""
_FOUR = """
time hand room book door fish gold home idea jump king lamp moon name open park rain ship tree wind year bird coat desk
east farm game hill iron joke kite lake milk nose oven path ring salt tent user vine wolf yard zero arch ball cake deer
echo face gate hero inch jazz keys leaf mind nest oath pond quiz road sand team unit vote wave yarn area belt clay dust
edge flag glue harp item junk knot lion mask neck onyx plum rope soup town urge vest wing army bone corn drum envy fork
girl hope isle jury kind loaf mist note palm race silk tail ugly view wool axis bowl crab dawn exit foam goat hour jail
"""
_FIVE = """
house water table light plant stone bread chair cloud dream earth field glass heart image juice knife lemon music night
ocean paper queen river sugar tiger uncle voice wheel youth zebra apple beach candy dance eagle flame grape horse ivory
joker koala lunar mouse nurse onion piano quiet radio snake train urban video whale yacht acorn bacon camel daisy elbow
fairy giant happy index jelly kiosk ladle maple noble olive pearl quick robin sheep tooth union vapor wagon yeast actor
badge cabin depth eight fence ghost honey inner jewel knock laser metal north orbit panda quilt royal scarf thumb upper
vital waist amber blade chalk drill empty frost grain humor issue judge label march nerve organ plate queue route shelf
towel usual visit world angle brick crown doubt event floor guide hotel ideal joint learn model novel offer point quote
range skill trade unity value watch alarm brave coast draft error fresh grand hurry imply layer money niece order pride
rapid scale trust usage wound alone bench craft enjoy final great heavy irony limit match never other press ready
share touch under voter white adult brain cheap drama entry force group human input local major noise owner power right
short today until vivid woman admit blank chief drive equal frame green habit lucky media ought prize rifle sharp
"""


def _listed(text: str, length: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in text.split() if len(word) == length and word.isalpha()))


WORDS: Mapping[int, tuple[str, ...]] = {3: _listed(_THREE, 3), 4: _listed(_FOUR, 4), 5: _listed(_FIVE, 5)}
"""Words of three, four and five letters."""
