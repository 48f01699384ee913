-- Built by `make docs` from schema/tables/music_keywords.sql. Edit that file instead.

-- Template and synonyms of the keyword index of public.music_knowledge.

-- The title summarizes an entry in about five words, and has twice the weight.
select backline.set_keywords(c.id, '{title} {title} {topic} {category} {suggestion} {asked_as}')
from backline.collections c where c.name = 'music_knowledge';

-- Studio slang, brand names and everyday words, with the terms that the entries use.
select backline.set_synonyms(c.id, '{
  "808s": "808", "ab": "reference level-matched", "ableton": "session", "acapella": "vocal",
  "adlib": "vocal double", "adlibs": "vocal double", "airy": "air high shelf", "arp": "arpeggio",
  "auto-tune": "pitch correction tune", "autotune": "pitch correction tune", "axe": "guitar",
  "background": "noise", "backup": "back up", "backups": "back up", "bd": "kick drum",
  "bedroom": "small room acoustic", "bleed": "bleed spill", "boomy": "low-mid mud",
  "boxy": "low-mid box", "bpm": "tempo", "bridge": "bridge section", "bright": "high shelf",
  "buildup": "riser build", "buried": "masking level", "busy": "masking arrangement",
  "buzz": "hum noise ground", "buzzing": "hum ground", "chords": "chord", "clash": "masking",
  "clashing": "masking", "clicky": "click attack", "clipping": "clip headroom",
  "clips": "clip headroom", "closet": "vocal booth room", "cluttered": "masking arrangement",
  "comp": "compressor", "compression": "compressor", "comps": "compressor",
  "cpu": "buffer freeze", "crackles": "buffer click", "crackling": "buffer click",
  "crisp": "presence air", "crowded": "masking arrangement", "cubase": "session",
  "dark": "air high shelf", "daw": "session project", "delayed": "latency",
  "distorted": "distortion clip", "distorting": "distortion clip gain", "dreamy": "reverb lush",
  "drop": "drop build", "duck": "sidechain", "ducking": "sidechain duck",
  "dull": "air high shelf", "dx7": "FM electric piano", "ears": "ear monitoring",
  "echo": "delay", "echoes": "delay", "echoey": "room reverb acoustic", "eq": "equaliser",
  "equaliser": "eq", "equalization": "eq", "equalizer": "eq", "ess": "de-ess sibilance",
  "esses": "de-ess sibilance", "fat": "thick", "fighting": "masking", "freeze": "bounce cpu",
  "gits": "guitar", "glitch": "buffer click", "groove": "swing", "groovy": "swing groove",
  "gtr": "guitar", "gtrs": "guitar", "happy": "major", "harsh": "upper mid", "hats": "hi-hat",
  "headphones": "headphone monitoring", "hifi": "hi-fi", "hiss": "noise",
  "hissing": "noise sibilance", "hissy": "noise sibilance", "hollow": "phase comb",
  "honky": "nasal mid", "hook": "chorus melody", "hum": "hum noise ground",
  "itunes": "streaming", "jazzy": "jazz seventh ninth", "keys": "piano keyboard", "kik": "kick",
  "knob": "controller automation", "lag": "latency buffer", "laggy": "latency buffer",
  "laptop": "small speaker harmonics", "lfo": "lfo modulation", "lifeless": "dynamics",
  "lisp": "sibilance", "lo-fi": "lofi texture degrade", "lofi": "lo-fi", "logic": "session",
  "loop": "loop section arrangement", "loud": "loudness", "louder": "loudness",
  "lowend": "low end bass", "lp": "vinyl", "lufs": "loudness", "mastered": "mastering",
  "melody": "melody motif", "melodyne": "pitch correction", "metronome": "click tempo",
  "mic": "microphone", "mics": "microphone", "mono": "mono stereo", "mud": "low-mid",
  "muddy": "mud low-mid", "nasal": "honk mid", "offbeat": "timing swing", "offkey": "pitch",
  "orchestra": "orchestral strings", "peaking": "peak headroom clip", "pedal": "sustain",
  "perc": "percussion", "phase": "polarity", "phasey": "phase polarity", "phat": "thick",
  "phone": "small speaker harmonics", "piercing": "harsh", "pitchy": "pitch correction",
  "plosive": "pop", "plosives": "pop", "plugin": "plug-in", "plugins": "plug-in",
  "pops": "plosive", "preamp": "gain", "pump": "sidechain", "pumping": "sidechain",
  "punchy": "punch transient", "quantize": "quantise", "quantized": "quantise",
  "quiet": "loudness level", "quieter": "loudness level", "rapper": "rap vocal",
  "reese": "reese bass", "rhodes": "electric piano", "risers": "riser",
  "robotic": "quantise humanise", "room": "room acoustic", "sad": "minor", "sections": "section",
  "shrill": "harsh", "sibilance": "de-ess", "sibilant": "de-ess", "singer": "vocal",
  "singing": "vocal", "snappy": "transient attack", "soundcloud": "streaming",
  "speakers": "monitor", "spooky": "minor", "spotify": "streaming loudness",
  "squash": "compression", "squashed": "over-compression", "static": "noise",
  "stiff": "quantise swing humanise", "strings": "string legato", "stuck": "finish arrangement",
  "subs": "sub bass", "supersaw": "saw unison", "synths": "synth", "thin": "thicken body",
  "tiktok": "streaming", "timing": "quantise align", "tinny": "thin", "topline": "melody vocal",
  "tpain": "hard-tuned", "transitions": "fill riser", "unfinished": "finish", "verb": "reverb",
  "verbs": "reverb", "voc": "vocal", "vocs": "vocal", "voice": "vocal", "volume": "level gain",
  "vox": "vocal", "vst": "plug-in instrument", "warm": "saturation", "warmth": "saturation",
  "wax": "vinyl", "weak": "thin punch", "wheel": "pitch-bend modulation",
  "whoosh": "noise riser", "wide": "stereo width", "wider": "stereo width", "width": "stereo",
  "wiggly": "pitch-bend", "wobble": "lfo bass", "woolly": "muddy", "wurli": "electric piano",
  "youtube": "streaming loudness"
}'::jsonb)
from backline.collections c where c.name = 'music_knowledge';
