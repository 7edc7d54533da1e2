#include "serve/endpoints.h"

namespace larder {
namespace {

// Self-contained: no other file, no other host. It holds no data itself; it asks /v1/cache/stats with the
// visitor's key.
constexpr std::string_view kPage = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Larder</title><style>
:root{color-scheme:light dark;--ink:#22262b;--dim:#6b7480;--paper:#f6f5f1;--card:#fff;--line:#e2e0d8;--bar:#3d7a5a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e3;--dim:#98a0a8;--paper:#16181a;--card:#1f2225;--line:#32363a;--bar:#6fb58f}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:52rem;margin:3rem auto;padding:0 1.2rem}
h1{font-size:1.5rem;margin:0}header p{margin:.1rem 0 1.6rem;color:var(--dim)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem}
.card b{display:block;font-size:1.6rem;font-weight:600;font-variant-numeric:tabular-nums}
.card span{color:var(--dim);font-size:.85rem}
.wide{margin-top:.8rem}.track{height:.7rem;background:var(--line);border-radius:.35rem;overflow:hidden;margin:.5rem 0 .2rem}
.fill{height:100%;width:0;background:var(--bar);transition:width .4s}
table{width:100%;border-collapse:collapse}td{padding:.25rem 0;border-top:1px solid var(--line)}
td+td{text-align:right;font-variant-numeric:tabular-nums}tr:first-child td{border-top:0}
#note{color:var(--dim);font-size:.85rem;margin-top:1rem}#key{display:none;margin:1rem 0}input{font:inherit;padding:.3rem .5rem}
</style></head><body><main>
<header><h1>Larder</h1><p id="model">&nbsp;</p></header>
<form id="key"><input type="password" placeholder="API key" autocomplete="off"> <button>Show</button></form>
<div class="grid">
<div class="card"><b id="running">–</b><span>running</span></div>
<div class="card"><b id="waiting">–</b><span>waiting</span></div>
<div class="card"><b id="reuse">–</b><span>prompt tokens not recomputed</span></div>
<div class="card"><b id="speed">–</b><span>tokens generated per second</span></div>
</div>
<div class="card wide"><span>KV cache in memory</span><div class="track"><div class="fill" id="fill"></div></div>
<span id="memory">&nbsp;</span></div>
<div class="card wide"><table id="rows"></table></div>
<p id="note">&nbsp;</p>
</main><script>
const at=id=>document.getElementById(id),number=n=>n.toLocaleString('en');
const size=b=>{const u=['B','KiB','MiB','GiB','TiB'];let i=0;while(b>=1024&&i<4){b/=1024;i++}return b.toFixed(i?1:0)+' '+u[i]};
let key='',last=null;
function show(s){
  at('model').textContent=s.model;at('running').textContent=s.requests.running;at('waiting').textContent=s.requests.waiting;
  at('reuse').textContent=s.tokens.prompt?Math.round(100*s.tokens.cached/s.tokens.prompt)+' %':'–';
  const now=Date.now();
  if(last)at('speed').textContent=Math.max(0,(s.tokens.generated-last.tokens)/((now-last.time)/1000)).toFixed(1);
  last={tokens:s.tokens.generated,time:now};
  at('fill').style.width=Math.min(100,100*s.memory.used_bytes/s.memory.limit_bytes)+'%';
  at('memory').textContent=size(s.memory.used_bytes)+' of '+size(s.memory.limit_bytes)+', '+number(s.blocks.total)+' blocks';
  const rows=[['Rows found',s.rows.hit],['Rows missed',s.rows.missed],['Blocks evicted',s.blocks.evicted]];
  for(const [k,v] of Object.entries(s.misses))rows.push(['Miss: '+k.replaceAll('_',' '),v]);
  rows.push(['Requests finished',s.requests.finished],['Requests cancelled',s.requests.cancelled]);
  at('rows').replaceChildren(...rows.map(([k,v])=>{const r=document.createElement('tr');
    for(const t of [k,number(v)]){const c=document.createElement('td');c.textContent=t;r.append(c)}return r}));
  at('note').textContent='';
}
async function poll(){
  try{
    const r=await fetch('v1/cache/stats',{headers:key?{authorization:'Bearer '+key}:{}});
    at('key').style.display=r.status==401?'block':'none';
    if(r.ok)show(await r.json());else at('note').textContent=r.status==401?'This server wants an API key.':'Status '+r.status;
  }catch(e){at('note').textContent='The server does not answer.'}
  setTimeout(poll,document.hidden?10000:1500);
}
at('key').onsubmit=e=>{e.preventDefault();key=e.target[0].value};
poll();
</script></body></html>
)html";

}  // namespace

HttpResponse HandleStatusPage(ServeContext& context, const HttpRequest& request) {
  HttpResponse response{.content_type = "text/html; charset=utf-8", .body = std::string(kPage)};
  response.headers.emplace_back(
      "Content-Security-Policy",
      "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'");
  return response;
}

}  // namespace larder
