//! A frame of a picture: the operations of a layer, and boxes for its inputs and outputs.

use super::*;

/// Maximum number of operations per frame.
const MOST: usize = 400;
/// Edges across more ranks than this end in a box that names their source.
const LONG: usize = 9;
/// Consumers further apart than this get separate boxes for the same outside source.
const NEAR: usize = 3;
/// Maximum lines about weights and about parameters per box.
const LINES: usize = 3;

/// Returns true if boxes of this class are rounded.
pub(super) fn is_round(class: &str) -> bool {
    ["input", "output", "link"].contains(&class)
}

/// A frame, laid out.
pub(super) struct Frame {
    title: String,
    repeats: usize,
    cells: Vec<Cell>,
    layout: layout::Layout,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Number of operations drawn.
    pub(super) operations: usize,
}

impl Frame {
    pub(super) fn new(
        graph: &Graph,
        group: &Group,
        homes: &HashMap<usize, String>,
        consumers: &[Vec<usize>],
        options: &Options,
        budget: usize,
    ) -> Self {
        let stands = if options.unfold {
            group.nodes.iter().map(|&n| (n, n)).collect()
        } else {
            parallel::representatives(graph, &group.nodes)
        };
        let drawn: Vec<usize> = group.nodes.iter().copied().filter(|n| stands[n] == *n).collect();
        let links: usize = drawn.iter().map(|&n| graph.nodes[n].inputs.len()).sum();
        let title = match group.repeats {
            1 => group.title.clone(),
            _ => span(&group.title, &group.last),
        };
        let few = drawn.len() <= MOST.min(budget) && links <= 8 * MOST;
        let (cells, edges) = if few {
            Content::new(graph, group, homes, consumers, &stands).build(&drawn)
        } else {
            (vec![numbers(graph, group)], Vec::new())
        };
        let sizes: Vec<Size> = cells.iter().map(Cell::size).collect();
        let layout = layout::layered(&sizes, &edges);
        let head = if title.is_empty() { 0.0 } else { 26.0 };
        let width = layout.width.max(title.chars().count().min(LINE) as f64 * 8.5 + 50.0) + 2.0 * 16.0;
        let height = layout.height + head + 2.0 * 16.0;
        let operations = if few { drawn.len() } else { 0 };
        Self { title, repeats: group.repeats, cells, layout, width, height, operations }
    }

    pub(super) fn draw(&self, (x, y): (f64, f64), out: &mut String) {
        let (w, h) = (self.width, self.height);
        let _ = writeln!(
            out,
            "<rect class=\"frame\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"10\"/>"
        );
        let mut top = y + 16.0;
        if !self.title.is_empty() {
            svg::text(&shorten(&self.title, 60), "h2", (x + 16.0, y + 24.0), out);
            top += 26.0;
        }
        if self.repeats > 1 {
            svg::badge(self.repeats, (x + w - 44.0, y + 10.0), out);
        }
        let offset = (x + (w - self.layout.width) / 2.0, top);
        for points in &self.layout.edges {
            svg::edge(points, offset, out);
        }
        for (cell, centre) in self.cells.iter().zip(&self.layout.centres) {
            cell.draw((centre.0 + offset.0, centre.1 + offset.1), out);
        }
    }
}

/// A box with the number of operations of each kind.
fn numbers(graph: &Graph, group: &Group) -> Cell {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for &n in &group.nodes {
        *kinds.entry(graph.nodes[n].kind.as_str()).or_default() += 1;
    }
    let mut sorted: Vec<(&str, usize)> = kinds.into_iter().collect();
    sorted.sort_by_key(|&(kind, n)| (std::cmp::Reverse(n), kind));
    let mut lines = vec![format!("{} operations, too many to draw", group.nodes.len())];
    lines.extend(sorted.iter().take(16).map(|(kind, n)| format!("{n} × {}", shorten(kind, LINE))));
    if sorted.len() > 16 {
        lines.push(format!("{} more kinds", sorted.len() - 16));
    }
    Cell { class: "move", lines, ..Cell::default() }
}

/// Boxes and edges of a frame under construction.
struct Content<'a> {
    graph: &'a Graph,
    homes: &'a HashMap<usize, String>,
    consumers: &'a [Vec<usize>],
    stands: &'a HashMap<usize, usize>,
    inside: HashSet<usize>,
    members: HashMap<usize, Vec<usize>>,
    /// Depth of each operation.
    depth: HashMap<usize, usize>,
    repeats: usize,
    cells: Vec<Cell>,
    edges: Vec<(usize, usize)>,
}

impl<'a> Content<'a> {
    fn new(
        graph: &'a Graph,
        group: &Group,
        homes: &'a HashMap<usize, String>,
        consumers: &'a [Vec<usize>],
        stands: &'a HashMap<usize, usize>,
    ) -> Self {
        let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
        for &n in &group.nodes {
            members.entry(stands[&n]).or_default().push(n);
        }
        let place: HashMap<usize, usize> = group.nodes.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let edges: Vec<(usize, usize)> = group
            .nodes
            .iter()
            .flat_map(|n| graph.nodes[*n].inputs.iter().chain(&graph.nodes[*n].after).map(move |i| (i, n)))
            .filter_map(|(i, n)| Some((*place.get(i)?, place[n])))
            .collect();
        let ranks = layout::ranks(group.nodes.len(), &edges);
        let depth = group.nodes.iter().copied().zip(ranks).collect();
        let inside = group.nodes.iter().copied().collect();
        let (cells, edges) = (Vec::new(), Vec::new());
        Self { graph, homes, consumers, stands, inside, members, depth, repeats: group.repeats, cells, edges }
    }

    fn build(mut self, drawn: &[usize]) -> (Vec<Cell>, Vec<(usize, usize)>) {
        let place: HashMap<usize, usize> = drawn.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        self.cells = drawn.iter().map(|n| self.operation(*n)).collect();
        // Inputs from outside and from far above: source and consumers.
        let mut far: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &n in drawn {
            let node = &self.graph.nodes[n];
            // Operations on a state are chained; only the first takes it from outside.
            let before = node.after.and_then(|a| place.get(&a));
            self.edges.extend(before.map(|&at| (at, place[&n])));
            for &source in &node.inputs {
                if before.is_some() && self.graph.nodes[source].role == Role::State {
                    continue;
                }
                let from = self.stands.get(&source).copied().unwrap_or(source);
                match place.get(&from) {
                    Some(&at) if self.depth[&n].saturating_sub(self.depth[&from]) <= LONG => {
                        self.edges.push((at, place[&n]))
                    }
                    _ => far.entry(from).or_default().push(n),
                }
            }
        }
        for (source, mut takers) in far {
            if let Some(&at) = place.get(&source) {
                // Boxes below refer to it by this name.
                let name = shorten(&plain(&self.graph.nodes[source].name), 34);
                self.cells[at].lines.push(format!("as {name}"));
            }
            takers.sort_by_key(|t| self.depth[t]);
            for near in takers.chunk_by(|a, b| self.depth[b] - self.depth[a] <= NEAR) {
                let at = self.cells.len();
                self.cells.push(self.incoming(source));
                self.edges.extend(near.iter().map(|t| (at, place[t])));
            }
        }
        for &n in drawn {
            for cell in self.outgoing(n) {
                self.edges.push((place[&n], self.cells.len()));
                self.cells.push(cell);
            }
        }
        self.edges.sort_unstable();
        self.edges.dedup();
        (self.cells, self.edges)
    }

    fn operation(&self, at: usize) -> Cell {
        let node = &self.graph.nodes[at];
        let mut lines = vec![shorten(&node.kind, LINE)];
        for weight in node.weights.iter().take(LINES) {
            let name = if weight.name.is_empty() { weight.parameter.clone() } else { plain(&weight.name) };
            lines.push(format!("{}: {}", shorten(&name, 26), shorten(&weight.form, 34)));
            lines.push(format!("   {} {:?}", weight.dtype, weight.shape));
        }
        if node.weights.len() > LINES {
            lines.push(format!("{} more constants", node.weights.len() - LINES));
        }
        lines.extend(wrapped(&node.parameters));
        if !node.ty.is_empty() {
            lines.push(format!("→ {}", shorten(&node.ty, LINE)));
        }
        let times = self.members.get(&at).map_or(1, Vec::len);
        Cell { class: svg::class(&node.kind), lines, times, hint: hint(node), round: false }
    }

    /// A box for an input from outside or from far above.
    fn incoming(&self, source: usize) -> Cell {
        let node = &self.graph.nodes[source];
        let name = shorten(&plain(&node.name), 34);
        let (class, lines) = match node.role {
            Role::Input => ("input", vec![name, node.ty.clone()]),
            Role::State => ("state", vec![name, node.ty.clone()]),
            Role::Operation if self.inside.contains(&source) => {
                ("link", vec![name, format!("{} further above", node.kind)])
            }
            Role::Operation => {
                let home = self.homes.get(&source).filter(|h| !h.is_empty());
                let from = home.map_or_else(|| "the function".to_owned(), |h| shorten(h, LINE));
                let more = if self.repeats > 1 && !from.ends_with("the layers") { " and on" } else { "" };
                ("link", vec![name, format!("from {from}{more}")])
            }
        };
        Cell { class, lines, hint: hint(node), round: true, ..Cell::default() }
    }

    /// Boxes for outputs used elsewhere, and for results of the function.
    fn outgoing(&self, at: usize) -> Vec<Cell> {
        let members = &self.members[&at];
        let mut cells = Vec::new();
        let outputs: Vec<&String> = members.iter().flat_map(|&m| &self.graph.nodes[m].outputs).collect();
        let hint = hint(&self.graph.nodes[at]);
        if let [first, rest @ ..] = outputs.as_slice() {
            let names = match rest.last() {
                Some(last) => format!("{} … {}", shorten(first, 20), shorten(last, 20)),
                None => shorten(first, LINE),
            };
            let lines = vec![names, self.graph.nodes[at].ty.clone()];
            cells.push(Cell { class: "output", lines, hint: hint.clone(), round: true, times: outputs.len() });
        }
        let mut targets: Vec<&str> = Vec::new();
        for taker in members.iter().flat_map(|&m| &self.consumers[m]).filter(|c| !self.inside.contains(c)) {
            let home = self.homes.get(taker).map_or("", String::as_str);
            if !targets.contains(&home) && targets.len() < 64 {
                targets.push(home);
            }
        }
        if let [first, rest @ ..] = targets.as_slice() {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let name = shorten(&plain(&self.graph.nodes[at].name), 34);
            let lines = vec![name, format!("to {}{more}", shorten(first, LINE))];
            cells.push(Cell { class: "link", lines, hint, round: true, ..Cell::default() });
        }
        cells
    }
}

/// `layers 0 – 27`.
fn span(first: &str, last: &str) -> String {
    match (first.rsplit_once(' '), last.rsplit_once(' ')) {
        (Some((a, _)), Some((b, number))) if a == b => format!("{first} – {number}"),
        _ => format!("{first} – {last}"),
    }
}

/// A name without its layer prefix and converter suffixes.
fn plain(name: &str) -> String {
    let mut rest = layers::layer_of(name).map_or_else(|| name.to_owned(), |l| l.rest);
    while let Some(shorter) = ["_palettized", "_quantized", "_to_fp16", "_cast_fp16", "_cast_uint16"]
        .iter()
        .find_map(|s| rest.strip_suffix(s))
    {
        rest = shorter.to_owned();
    }
    if rest.is_empty() { name.to_owned() } else { rest }
}

/// Wraps the parameters into a few lines.
fn wrapped(parameters: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for parameter in parameters {
        let parameter = shorten(parameter, LINE);
        match lines.last_mut() {
            Some(line) if line.chars().count() + parameter.chars().count() < LINE - 8 => {
                line.push_str(", ");
                line.push_str(&parameter);
            }
            _ => lines.push(parameter),
        }
    }
    if lines.len() > LINES {
        lines.truncate(LINES);
        lines[LINES - 1].push_str(", …");
    }
    lines
}

fn hint(node: &Node) -> String {
    let weights: Vec<String> = node.weights.iter().map(|w| format!("{} ({} bytes)", w.name, w.bytes)).collect();
    let kind = if node.kind.is_empty() { String::new() } else { format!("{} ", node.kind) };
    format!("{kind}{} {}", node.name, weights.join(", ")).trim_end().to_owned()
}
