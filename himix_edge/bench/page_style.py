"""The report's style sheet: light and dark, from 360 pixels of width on."""

STYLE = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1d1f23;--soft:#666c75;--line:#e3e3de;--track:#efefeb;
--c1:#3866c9;--c2:#d98a00;--c3:#2c8f4f;--c4:#c5403f;--c5:#8156c4;--c6:#1a8f9c;
--preprocess:#9db6ea;--encoder:#3866c9;--injector:#e0a100;--prefill:#2c8f4f;--rest:#b4b7bd;
--good:#1d7a40;--doubt:#9a6200;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#131416;--card:#1c1e21;--ink:#e9eaec;--soft:#9aa1ab;--line:#32353a;
--track:#2a2d31;--c1:#6f98f0;--c2:#f0ad2d;--c3:#57bd7b;--c4:#ee7b74;--c5:#ae8cf0;--c6:#4cc0cc;
--preprocess:#a9c1f5;--encoder:#5d88e6;--injector:#efb62f;--prefill:#4fb374;--rest:#70767f;
--good:#63cb8a;--doubt:#efb62f;--bad:#f28b82}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1240px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 4px}h2{font-size:1.1rem;margin:0 0 4px}
h3{font-size:.95rem;margin:12px 0 4px}h4{font-size:.85rem;font-weight:600;margin:10px 0 0}
.block{break-inside:avoid}.block>h3:first-child{margin-top:0}
p{margin:0 0 12px;color:var(--soft)}header p{margin:0}
.cards{columns:420px 2;column-gap:16px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin-top:16px;
break-inside:avoid}.cards section{margin:0 0 16px}.cards{margin-top:16px}
.scroll{overflow-x:auto;margin:0 -16px -4px;padding:0 16px 4px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:6px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{padding-left:0}
td.name,th.name{text-align:left}tr:last-child td{border-bottom:0}
td.best{font-weight:600}td.kept{color:var(--soft)}
.no{display:inline-block;min-width:1.4em;color:var(--soft);font-weight:400}
.badges{display:flex;flex-wrap:wrap;gap:6px;margin:8px 0 0}
.badge{border:1px solid currentColor;border-radius:99px;padding:1px 10px;font-size:.82rem}
.summary td.name{white-space:normal;overflow-wrap:anywhere;min-width:150px}
.summary th,.summary td{padding:6px 7px}
.valid{color:var(--good)}.semi-valid{color:var(--doubt)}.invalid{color:var(--bad);font-weight:600}
.row{margin:10px 0}.head{display:flex;justify-content:space-between;gap:12px;font-size:.9rem}
.head span{overflow-wrap:anywhere}.head strong{white-space:nowrap;font-variant-numeric:tabular-nums}
small{color:var(--soft);font-size:.8rem;display:block}
.bar{position:relative;display:flex;gap:2px;height:16px;background:var(--track);border-radius:4px;overflow:hidden;
margin:3px 0}
.bar i{display:block;height:100%;min-width:1px}
.mark{position:absolute;top:0;bottom:0;width:2px;background:var(--ink)}
.ridge{display:block;width:100%;height:40px;margin:3px 0;background:var(--track);border-radius:4px;fill:var(--c1)}
.ridge line{stroke:var(--ink);stroke-width:2;vector-effect:non-scaling-stroke}
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:.82rem;color:var(--soft);margin:4px 0 8px}
.legend span{display:inline-flex;align-items:center;gap:6px;overflow-wrap:anywhere}
.legend i{width:11px;height:11px;border-radius:3px;flex:none}
i.preprocess{background:var(--preprocess)}i.vision_encoder{background:var(--encoder)}
i.vision_injector{background:var(--injector)}i.prefill{background:var(--prefill)}i.rest{background:var(--rest)}
i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}i.c4{background:var(--c4)}
i.c5{background:var(--c5)}i.c6{background:var(--c6)}
.plot{display:block;width:100%;max-width:560px;height:auto;margin:0 auto;font-size:11px}
.plot .grid{stroke:var(--line)}.plot .tick,.plot .axis{fill:var(--soft)}.plot .dot{fill:var(--card);text-anchor:middle;
font-size:10px;font-weight:600}
.plot circle{stroke:var(--card);stroke-width:1.5}
circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}circle.c3{fill:var(--c3)}circle.c4{fill:var(--c4)}
circle.c5{fill:var(--c5)}circle.c6{fill:var(--c6)}
polyline{fill:none;stroke-width:2}polyline.c1{stroke:var(--c1)}polyline.c2{stroke:var(--c2)}polyline.c3{stroke:var(--c3)}
polyline.c4{stroke:var(--c4)}polyline.c5{stroke:var(--c5)}polyline.c6{stroke:var(--c6)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--track);border-radius:6px;padding:10px;margin:6px 0;
font:.8rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:auto 1fr;gap:2px 14px;margin:0;font-size:.88rem}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}ul{margin:4px 0;padding-left:20px}li{overflow-wrap:anywhere;font-size:.88rem}
@media (max-width:1100px){
.summary,.summary tbody{display:block}.summary thead{display:none}
.summary tr{display:flex;flex-wrap:wrap;align-items:baseline;padding:10px 0;border-bottom:1px solid var(--line)}
.summary tr:last-child{border-bottom:0}
.summary td{flex:0 0 25%;border:0;padding:2px 4px 2px 0;text-align:left;white-space:normal}
.summary td::before{content:attr(data-of);display:block;color:var(--soft);font-size:.74rem;font-weight:400}
.summary td.name{flex:1 1 100%;font-weight:500;min-width:0}
.summary td.name::before{content:none}
.summary td.name{flex-basis:calc(100% - 90px)}
.summary td.verdict{flex:0 0 auto;padding-right:0}.summary td.verdict::before{content:none}
}
@media (max-width:640px){
.matrix,.matrix tbody{display:block}.matrix thead{display:none}
.matrix tr{display:flex;flex-wrap:wrap;align-items:baseline;padding:10px 0;border-bottom:1px solid var(--line)}
.matrix tr:last-child{border-bottom:0}
.matrix td{flex:0 0 25%;border:0;padding:2px 4px 2px 0;text-align:left;white-space:normal}
.matrix td::before{content:attr(data-of);display:block;color:var(--soft);font-size:.74rem;font-weight:400}
.matrix td.name{flex:1 1 100%;font-weight:500;min-width:0}
.matrix td.name::before{content:none}
.summary td,.matrix td{flex-basis:33.33%}
main{padding:16px 12px 32px}section{padding:12px}.scroll{margin:0 -12px -4px;padding:0 12px 4px}
dl{grid-template-columns:1fr}dd{margin-bottom:6px}
}
"""
