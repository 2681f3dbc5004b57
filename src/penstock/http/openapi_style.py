"""How the reference looks: small, readable, light or dark as the reader's system is."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--paper:#fff;--side:#f5f7f9;
--code:#eef1f5;--accent:#0b63b5;--get:#0b63b5;--post:#1c7a3c;--put:#9a5b00;--delete:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#9aa6b5;--line:#2c3542;--paper:#12171e;--side:#181f28;
--code:#222b37;--accent:#6db3f2;--get:#6db3f2;--post:#6fd08c;--put:#e6b15a;--delete:#f28b82}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;display:grid;grid-template-columns:19rem minmax(0,1fr);color:var(--ink);background:var(--paper);
font:15px/1.55 system-ui,sans-serif}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.25rem 1rem;background:var(--side);
border-right:1px solid var(--line);font-size:13px}
nav a{display:flex;gap:.5rem;padding:.15rem .25rem;color:inherit;text-decoration:none;border-radius:4px}
nav a:hover{background:var(--code)}nav em{flex:0 0 3.6rem;text-align:right}
nav h2{margin:1.1rem 0 .25rem;font-size:11px;letter-spacing:.06em;text-transform:uppercase;color:var(--soft)}
nav .title{font-size:17px;font-weight:650}small{color:var(--soft);font-weight:400;font-size:12px;align-self:center}
main{padding:1.5rem 3rem 6rem;max-width:62rem}
h1{font-size:1.7rem;margin:.2rem 0 .6rem}main>h2{margin:3rem 0 .3rem;font-size:1.3rem}
h3{margin:0;font-size:1.05rem}h4{margin:1rem 0 .3rem;font-size:12px;color:var(--soft);text-transform:uppercase;
letter-spacing:.05em}p{margin:.4rem 0;max-width:48rem}a{color:var(--accent)}
section{margin:1.2rem 0;padding:1.1rem 1.3rem;border:1px solid var(--line);border-radius:8px;scroll-margin-top:1rem}
section:target{border-color:var(--accent)}
.route{display:flex;flex-wrap:wrap;gap:.6rem;align-items:baseline;max-width:none}
.route code{background:none;padding:0;font-size:14px}
.scope{margin-left:auto;padding:0 .5rem;border:1px solid var(--line);border-radius:1rem;font-size:12px;
color:var(--soft)}
em{font:600 11px/1.6 ui-monospace,monospace;font-style:normal;color:var(--soft)}
em.get{color:var(--get)}em.post{color:var(--post)}em.put,em.patch{color:var(--put)}em.delete{color:var(--delete)}
var{font-style:normal;color:var(--accent)}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{background:var(--code);border-radius:3px;padding:.05rem .25rem;overflow-wrap:anywhere}
pre{margin:.4rem 0;padding:.7rem .9rem;background:var(--code);border-radius:6px;overflow:auto}
table{width:100%;border-collapse:collapse;font-size:13.5px}td{padding:.3rem .6rem .3rem 0;vertical-align:top;
border-top:1px solid var(--line)}td:first-child{width:32%}td:nth-child(2){width:26%;color:var(--soft)}
td small{font-size:12px}
td i{display:block;font-style:normal;font-size:12px}
details{margin:.15rem 0}summary{cursor:pointer}section>details>summary{font-size:13.5px}
b{font-variant-numeric:tabular-nums}.errors{font-size:13.5px}
.wide td:nth-child(2){width:46%;color:inherit}tr:target{background:var(--code)}
.media{margin:.4rem 0 .2rem;font-size:12.5px;color:var(--soft)}
@media(max-width:56rem){body{display:block}nav{position:static;height:auto;max-height:40vh}main{padding:1rem}}
"""
