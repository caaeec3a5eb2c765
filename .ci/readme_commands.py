"""Print the commands of README.md that stand behind a line `<!-- command -->`, one a line."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
print("\n".join(re.findall(r"<!-- command -->\n```(?:bash|sh)\n(.+)\n```", text)))
