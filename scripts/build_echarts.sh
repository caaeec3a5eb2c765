#!/usr/bin/env bash
# Makes src/convspectra/report/page/echarts.min.js.xz: the parts of Apache ECharts that the page uses.
# Needs Node.js and npm; run it only to take a newer ECharts.
set -euo pipefail
target=$(cd "$(dirname "$0")/../src/convspectra/report/page" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --no-audit --no-fund echarts@6.1.0 esbuild@0.28.1 terser@5.51.4
cat > entry.mjs <<'ENTRY'
import * as core from 'echarts/core';
import { LineChart, CustomChart } from 'echarts/charts';
import { GridComponent } from 'echarts/components';
import { SVGRenderer } from 'echarts/renderers';
core.use([LineChart, CustomChart, GridComponent, SVGRenderer]);
export const init = core.init;
ENTRY
npx esbuild entry.mjs --bundle --minify --format=iife --global-name=echarts --target=es2020 \
  --legal-comments=none --banner:js="/*! Apache ECharts 6.1.0, Apache License 2.0, see NOTICE */" \
  --outfile=bundle.js
npx terser bundle.js --compress passes=3,ecma=2020 --mangle --ecma 2020 --output echarts.min.js
xz --lzma2=preset=9e,pb=0 --stdout echarts.min.js > "$target/echarts.min.js.xz"
# Of its licence, Apache-2.0 as this package's LICENSE, what comes after the common text; its notice is in NOTICE.
sed -n '/^Apache ECharts Subcomponents:/,$p' node_modules/echarts/LICENSE > "$target/echarts.LICENSE.txt"
