// All that moves on a page: unpacks what is heavy, draws figures, sorts and filters tables, compares users.
// Titles and names are strangers' text: they reach the page as text nodes alone, never as HTML.

const dark = matchMedia("(prefers-color-scheme: dark)"), touch = matchMedia("(pointer: coarse)");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- what is heavy lies in the page compressed ----

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function once(make) {
  let made;
  return () => made ??= make();
}

const payload = once(async () => JSON.parse(await unpack("payload")));
const library = once(async () => {
  const script = element("script", {textContent: await unpack("plotly")});
  document.head.append(script);
  script.remove();
  return window.Plotly;
});

function trouble(error) {
  const line = document.getElementById("trouble");
  line.textContent = "The figures and comparisons of this page cannot be unpacked by this browser; the tables are "
    + `complete. A browser of 2023 or later shows all of it. (${error.message})`;
  line.hidden = false;
}

// ---- figures ----

const made = new Map();  // place -> figure that was made here, not in the payload
const shown = new Map();  // place -> figure that was drawn there
const config = {
  responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
  displayModeBar: touch.matches ? false : "hover",  // without a mouse it would always lie over the legend
};

async function draw(place, figure) {
  shown.set(place, figure);
  const [{templates}, Plotly] = await Promise.all([payload(), library()]);
  if (shown.get(place) !== figure) return;  // another was chosen meanwhile
  const {data, layout} = structuredClone(figure);  // Plotly writes into what it draws
  if (layout.height) place.style.height = `${layout.height}px`;
  if (touch.matches) layout.dragmode = false;  // a finger on a figure scrolls the page
  const saved = {toImageButtonOptions: {filename: place.dataset.figure ?? place.id}};
  await Plotly.newPlot(place, data, {...layout, template: templates[+dark.matches]}, {...config, ...saved});
  place.setAttribute("role", "group");  // an image may hold no buttons, and Plotly's are in there
  all(".main-svg", place).forEach((part, i) => {
    part.setAttribute(i ? "aria-hidden" : "role", i ? "true" : "img");
    if (!i) part.setAttribute("aria-label", place.getAttribute("aria-label"));
  });
}

async function drawn(place) {
  await draw(place, made.get(place) ?? (await payload()).figures[place.dataset.figure]);
}

const near = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    drawn(target).catch(trouble);
  }
}, {rootMargin: "800px"});
all(".plot[data-figure]").forEach((place) => near.observe(place));
dark.addEventListener("change", () => shown.forEach((figure, place) => draw(place, figure)));

for (const root of all(".switch")) {
  const place = root.querySelector(".plot"), select = root.querySelector("select");
  const title = place.getAttribute("aria-label");
  select.value = place.dataset.figure;  // a reloaded page would keep the other choice
  select.addEventListener("change", () => {
    place.dataset.figure = select.value;
    place.setAttribute("aria-label", `${title}: ${select.selectedOptions[0].text}`);
    near.unobserve(place);
    drawn(place).catch(trouble);
  });
}

// ---- the navigation tells where one is ----

const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
const parts = all("main > section").filter(({id}) => links.has(id));

function reading() {
  const end = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;  // a short last part never comes up
  const part = end ? parts.at(-1) : parts.findLast((part) => part.getBoundingClientRect().top < 0.4 * innerHeight);
  const link = links.get((part ?? parts[0]).id);
  if (link.ariaCurrent) return;
  links.forEach((other) => other.removeAttribute("aria-current"));
  link.setAttribute("aria-current", "true");
  const bar = link.closest("nav");
  bar.scrollTo(link.offsetLeft - 16, link.offsetTop - bar.clientHeight / 2);
}
if (parts.length) {
  addEventListener("scroll", reading, {passive: true});
  reading();
}

// ---- commands ----

async function copy(button) {
  const said = document.getElementById("said");
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    said.textContent = button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 2000);
  } catch {  // not allowed: what can be selected can be copied by hand
    const text = button.previousElementSibling ?? button.parentElement;
    getSelection().selectAllChildren(text);
    said.textContent = "Selected";
  }
}
all("button.copy").forEach((button) => button.addEventListener("click", () => copy(button)));

// ---- the leaderboard ----

function leaderboard(root) {
  const table = root.querySelector("table"), status = root.querySelector(".status");
  const query = root.querySelector(".query"), grouped = root.querySelector(".grouped");
  const groups = all("tbody", table), rows = all("tr.model", table);
  const homes = new Map(rows.map((row) => [row, row.parentElement]));
  const heads = [table.querySelector("thead th"), ...all("thead th[data-name]", table)];  // one a column
  const sorted = document.createElement("tbody");
  let by = null;

  const chosen = (filter) => {
    const boxes = all(`[data-filter="${filter}"] input`, root);
    return boxes.length ? new Set(boxes.filter((box) => box.checked).map((box) => box.value)) : null;
  };
  const value = (row, j) => {
    if (j === 0) return row.querySelector(".label").textContent;
    const told = row.cells[j].dataset.value;
    return told === undefined ? null : Number(told);
  };

  function filter() {
    const [kinds, names, datasets] = ["group", "name", "dataset"].map(chosen);
    const words = query.value.toLowerCase().trim();
    for (const row of rows) {
      row.hidden = !kinds.has(homes.get(row).dataset.group) || !value(row, 0).toLowerCase().includes(words);
    }
    for (const group of groups) {
      group.querySelector(".group").hidden = !rows.some((row) => homes.get(row) === group && !row.hidden);
    }
    const visible = heads.map(({dataset: {name, dataset}}, j) => {
      return j === 0 || names.has(name) && (datasets === null || datasets.has(dataset));
    });
    heads.forEach((head, j) => { head.hidden = !visible[j]; });
    for (const row of rows) visible.forEach((is, j) => { row.cells[j].hidden = !is; });
    for (const head of all("th.dataset", table)) {
      const count = heads.filter((h) => h.dataset.dataset === head.dataset.dataset && !h.hidden).length;
      head.hidden = count === 0;
      head.colSpan = count || 1;
    }
    tell();
  }

  function tell() {
    const count = rows.filter((row) => !row.hidden).length;
    const order = by === null ? "" : `, sorted by ${title(heads[by])}`;
    status.textContent = `${count} of ${rows.length} models${order}`;
  }

  function title(head) {
    return [head.querySelector(".sort").textContent, head.dataset.dataset && `(${head.dataset.dataset})`]
      .filter(Boolean).join(" ");
  }

  function sort(j) {
    const head = heads[j], before = head.getAttribute("aria-sort");
    const first = head.dataset.order, other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first, sign = order === "ascending" ? 1 : -1;
    const told = rows.map((row) => [row, value(row, j)]);
    told.sort(([, x], [, y]) => {
      if (x === null || y === null) return (x === null) - (y === null);  // what is missing is last either way
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    by = j;
    sorted.append(...told.map(([row]) => row));
    groups.forEach((group) => group.remove());
    table.append(sorted);
    table.classList.add("sorted");
    grouped.setAttribute("aria-pressed", "false");
    tell();
  }

  function group() {
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    by = null;
    sorted.remove();
    rows.forEach((row) => homes.get(row).append(row));
    table.append(...groups);
    table.classList.remove("sorted");
    grouped.setAttribute("aria-pressed", "true");
    tell();
  }

  heads.forEach((head, j) => {
    head.style.minWidth = `${head.offsetWidth}px`;  // columns keep their width whichever rows are left
    head.querySelector(".sort").addEventListener("click", () => sort(j));
  });
  grouped.addEventListener("click", group);
  query.addEventListener("input", filter);
  all(".filters input", root).forEach((box) => box.addEventListener("change", filter));
  root.querySelector(".filters").open = innerWidth > 640;
  filter();
}
all(".leaderboard").filter((root) => root.querySelector(".controls")).forEach(leaderboard);

// ---- two models, user by user ----

const MOST = 6, BEST = 5;
const fixed = (number, digits) => number == null ? "–" : number.toFixed(digits).replace("-", "−");
const signed = (number, digits) => (number > 0 ? "+" : "") + fixed(number, digits);
const count = (number) => number == null ? "–" : number.toLocaleString("en");

function compare(root, told) {
  const {models, items, users} = told, sign = told.lower ? -1 : 1;  // -1 where less is better
  const [first, second] = ["select.a", "select.b"].map((selector) => root.querySelector(selector));
  const lists = all(".examples .list", root), titles = all(".examples h3", root);
  const place = root.querySelector(".plot"), opened = root.querySelector(".opened");
  const input = root.querySelector("input"), answer = root.querySelector("form .status");
  const byId = new Map(users.map((user) => [user.id, user]));
  let pair = [0, 1];

  const table = (caption, heads, rows) => element("table", {},
    element("caption", {className: "sr"}, caption),
    element("thead", {}, element("tr", {}, ...heads.map((head, j) => {
      return element("th", {scope: "col", className: j ? "" : "text"}, head);
    }))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row))));
  const cell = (content, kind = "number") => element("td", {className: kind}, content);

  function about(user) {
    const [a, b] = pair;
    const out = [element("h4", {}, "History")];
    const left = user.n_history - user.history.length;
    out.push(element("p", {className: "small"}, user.n_history === 0 ? "Nothing before." :
      `${user.n_history} before${left > 0 ? `, the last ${user.history.length} shown` : ""}, the newest last:`));
    out.push(element("ol", {}, ...user.history.map((item) => element("li", {}, items[item]))));
    if (user.rows) {
      out.push(element("h4", {}, "Held out, with the scores"));
      out.push(table("Scores", ["Item", "Liked", models[a], models[b]], user.rows.map(({item, label, scores}) => [
        cell(items[item], "text"), cell(label ? "yes" : "no"), cell(fixed(scores[a], 3)), cell(fixed(scores[b], 3)),
      ])));
      return out;
    }
    const few = user.held_out.length, n = user.n_held_out ?? few, of = n > few ? `: the ${few} ranked best of ${n}` : "";
    out.push(element("h4", {}, `Held out, with the ranks${of}`));
    out.push(element("p", {className: "small"}, "Ranks and lists are of the first seed, the numbers above means."));
    out.push(table("Ranks", ["Item", models[a], models[b]], user.held_out.map((item, i) => [
      cell(items[item], "text"), cell(count(user.ranks[a][i])), cell(count(user.ranks[b][i])),
    ])));
    const recommended = (model, i) => {
      const item = user.top[model][i];
      return item === undefined ? cell("–", "text") : user.hits[model][i]
        ? element("td", {className: "text hit"}, "✓ ", items[item], element("span", {className: "sr"}, " (held out)"))
        : cell(items[item], "text");
    };
    out.push(element("h4", {}, "Recommended first (✓ held out)"));
    const top = table("First recommendations", ["Rank", models[a], models[b]], Array.from({length: BEST}, (_, i) => [
      cell(`${i + 1}`), recommended(a, i), recommended(b, i),
    ]));
    all("th", top).forEach((head, j) => { head.className = j ? "text" : "number"; });
    out.push(top);
    return out;
  }

  function details(user, open = false) {
    const [x, y] = pair.map((model) => user.values[model]);
    const values = `${fixed(x, 3)} against ${fixed(y, 3)}`;
    const who = [element("strong", {}, `User ${user.id}`), user.about ? ` · ${user.about}` : ""];
    const box = element("details", {className: "user", user}, element("summary", {}, ...who, ` · ${values}`));
    if (open) box.append(...about(user));
    else box.addEventListener("toggle", () => box.append(...about(user)), {once: true});  // built when it is looked at
    box.open = open;
    return box;
  }

  function histogram() {
    const [a, b] = pair, forward = told.histogram[`${a},${b}`];
    const counts = forward ?? [...(told.histogram[`${b},${a}`] ?? [])].reverse();
    const edges = forward ? told.edges : told.edges.map((edge) => -edge).reverse();
    const bars = counts.map((count, i) => ({count, x: (edges[i] + edges[i + 1]) / 2, width: edges[i + 1] - edges[i]}));
    const [nameA, nameB] = pair.map((model) => models[model].replaceAll("&", "&amp;").replaceAll("<", "&lt;"));
    const stripes = {fillmode: "overlay", fgcolor: "#ffffff", fgopacity: 0.6, size: 8, solidity: 0.2};
    const side = (name, color, shape, mine) => ({
      type: "bar", name, x: mine.map(({x}) => x), y: mine.map(({count}) => count), width: mine.map(({width}) => width),
      marker: {color, pattern: {shape, ...stripes}},
      hovertemplate: "%{y} users around %{x:.3f}<extra></extra>",
    });
    const differ = counts.reduce((sum, count) => sum + count, 0);
    place.setAttribute("aria-label", `Histogram of the difference in ${told.metric}, ${models[a]} less ${models[b]}, `
      + `over the ${differ} users for whom they differ`);
    made.set(place, {
      data: [
        side(`${nameB} better`, "#D55E00", "/", bars.filter(({x}) => sign * x < 0)),
        side(`${nameA} better`, "#0072B2", "", bars.filter(({x}) => sign * x >= 0)),
      ],
      layout: {
        bargap: 0, barmode: "overlay", showlegend: true, height: 320,
        xaxis: {title: {text: `${told.metric}, A − B`}},
        yaxis: {title: {text: "Users who differ"}, rangemode: "tozero"},
      },
    });
    near.unobserve(place);
    near.observe(place);
  }

  function verdict() {
    const [a, b] = pair, {n, wins, difference, low, high, p} = told;
    const of = n[a][b], ties = of - wins[a][b] - wins[b][a], chance = p[a][b];
    const interval = `[${fixed(low[a][b], 3)}, ${fixed(high[a][b], 3)}]`;
    const p_value = chance < 0.001 ? "p < 0.001" : `p = ${chance?.toPrecision(2)}`;
    const tested = chance == null ? "" : `, ${p_value} (not corrected)`;
    root.querySelector(".verdict").replaceChildren(
      element("strong", {}, models[a]), ` better for ${count(wins[a][b])} users, `,
      element("strong", {}, models[b]), ` for ${count(wins[b][a])}, equal for ${count(ties)} (of ${count(of)}): `
      + `mean difference ${signed(difference[a][b], 4)} ${interval}${tested}`
      + (told.pooled ? `. ${told.metric} is of all rows together: a user's number is the user's share in it.` : ""));
    const parts = {a: [models[a], wins[a][b]], tie: ["equal", ties], b: [models[b], wins[b][a]]};
    for (const [part, [name, users]] of Object.entries(parts)) {
      Object.assign(root.querySelector(`.wins .${part}`), {hidden: users === 0}).style.flexGrow = users;
      root.querySelector(`.key .${part}`).textContent = `${name} ${fixed(100 * users / Math.max(of, 1), 0)} %`;
    }
  }

  function examples() {
    pair.forEach((model, side) => {
      const other = pair[1 - side], ahead = ({values}) => sign * (values[model] - values[other]);
      const both = users.filter(({values}) => values[model] != null && values[other] != null);
      const most = both.filter((user) => ahead(user) > 0).sort((x, y) => ahead(y) - ahead(x)).slice(0, MOST);
      titles[side].textContent = `Examples: where ${models[model]} wins most`;
      lists[side].replaceChildren(...most.map((user) => details(user)),
        ...(most.length ? [] : [element("p", {className: "small"}, "No such user among the examples.")]));
    });
  }

  function show(a, b) {
    pair = [a, b];
    [first.value, second.value] = pair;
    verdict();
    histogram();
    examples();
    opened.replaceChildren(...all(".user", opened).map(({user}) => details(user, true)));
  }

  const named = (name) => models.indexOf(name ?? "");
  const a = named(root.dataset.a) >= 0 ? named(root.dataset.a) : models.length - 1;
  const others = models.map((_, b) => b).filter((b) => b !== a);  // the best of them first
  others.sort((x, y) => sign * (told.difference[a][x] - told.difference[a][y]));
  first.addEventListener("change", () => show(+first.value, +first.value === pair[1] ? pair[0] : pair[1]));
  second.addEventListener("change", () => show(+second.value === pair[0] ? pair[1] : pair[0], +second.value));
  const options = users.map(({id, about}) => element("option", {value: id, label: about ?? ""}));
  root.querySelector("datalist").append(...options);
  root.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const user = byId.get(input.value.trim());
    answer.textContent = user ? "" : `No example user has this id; there are ${users.length}.`;
    opened.replaceChildren(...(user ? [details(user, true)] : []));
  });
  show(a, named(root.dataset.b) >= 0 && named(root.dataset.b) !== a ? named(root.dataset.b) : others[0]);
}

const comparisons = all(".users");
if (comparisons.length) {
  payload().then(({data: {users}}) => comparisons.forEach((root) => compare(root, users[root.dataset.users])))
    .catch(trouble);
}
