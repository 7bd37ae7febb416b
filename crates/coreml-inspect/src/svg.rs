//! SVG primitives: escaped text, boxes, edges, colours.

use std::fmt::Write;

use crate::layout::Size;

/// Maximum characters per line.
pub(crate) const LINE: usize = 44;
/// Line height.
const LEADING: f64 = 15.0;
const PADDING: f64 = 9.0;

/// Style sheet; classes correspond to kinds of operations.
pub(crate) const STYLE: &str = "\
text{font-family:'DejaVu Sans',Verdana,Helvetica,Arial,sans-serif;font-size:11px;fill:#1f2937}\
.h1{font-size:20px;font-weight:bold}.h2{font-size:16px;font-weight:bold}.b{font-weight:bold;font-size:12px}\
.s{fill:#4b5563}.badge{font-weight:bold;fill:#fff;font-size:12px}\
.frame{fill:#f8fafc;stroke:#94a3b8;stroke-width:1.2}.page{fill:#fff}\
.edge{fill:none;stroke:#64748b;stroke-width:1.3}.tip{fill:#64748b}\
rect.product{fill:#dbeafe;stroke:#2563eb}rect.norm{fill:#ede9fe;stroke:#7c3aed}\
rect.plain{fill:#fff;stroke:#64748b}rect.activation{fill:#dcfce7;stroke:#16a34a}\
rect.move{fill:#f1f5f9;stroke:#94a3b8}rect.lookup{fill:#fef9c3;stroke:#ca8a04}\
rect.state{fill:#fae8ff;stroke:#a21caf}rect.control{fill:#fee2e2;stroke:#dc2626}\
rect.input{fill:#bbf7d0;stroke:#15803d}rect.output{fill:#fed7aa;stroke:#c2410c}\
rect.link{fill:#fff;stroke:#94a3b8;stroke-dasharray:4 3}rect.dot{fill:#334155}";

/// Legend: class and meaning of each kind of box.
pub(crate) const LEGEND: [(&str, &str); 11] = [
    ("input", "input"),
    ("output", "output"),
    ("state", "state"),
    ("product", "products, convolutions"),
    ("norm", "norms, reductions"),
    ("activation", "activations"),
    ("plain", "elementwise, others"),
    ("move", "shape and place"),
    ("lookup", "lookups, indices"),
    ("control", "control flow"),
    ("link", "from or to another frame"),
];

/// Class of an operation.
pub(crate) fn class(kind: &str) -> &'static str {
    match kind {
        "conv"
        | "conv_transpose"
        | "conv_quantized"
        | "linear"
        | "matmul"
        | "einsum"
        | "lstm"
        | "gru"
        | "rnn"
        | "scaled_dot_product_attention" => "product",
        "softmax"
        | "layer_norm"
        | "batch_norm"
        | "instance_norm"
        | "l2_norm"
        | "local_response_norm"
        | "avg_pool"
        | "max_pool"
        | "l2_pool" => "norm",
        k if k.starts_with("reduce_") => "norm",
        "relu"
        | "relu6"
        | "gelu"
        | "silu"
        | "sigmoid"
        | "tanh"
        | "elu"
        | "prelu"
        | "leaky_relu"
        | "softplus"
        | "softsign"
        | "sigmoid_hard"
        | "clamped_relu"
        | "scaled_tanh"
        | "softplus_parametric"
        | "thresholded_relu" => "activation",
        "reshape" | "transpose" | "squeeze" | "expand_dims" | "concat" | "split" | "stack" | "slice_by_index"
        | "slice_by_size" | "slice_update" | "tile" | "pad" | "cast" | "identity" | "flatten2d" | "reverse"
        | "shape" | "fill" | "depth_to_space" | "space_to_depth" | "pixel_shuffle" | "pixel_unshuffle"
        | "batch_to_space" | "space_to_batch" | "sliding_windows" | "reshape_like" | "fill_like" => "move",
        "read_state" | "write_state" | "coreml_update_state" => "state",
        "cond" | "while_loop" | "classify" => "control",
        k if k.starts_with("list_") || k == "make_list" => "control",
        k if k.contains("gather") || k.contains("scatter") => "lookup",
        "topk" | "argsort" | "one_hot" | "non_zero" | "range_1d" => "lookup",
        _ => "plain",
    }
}

/// Escapes text for element content or attributes, in SVG and HTML. Replaces characters that XML forbids and those that
/// change the writing direction.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => out.push('\u{FFFD}'),
            '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// Shortens to at most `most` characters by omitting the middle.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let head = most / 2;
    let tail = most - head - 1;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(count - tail)).collect()
}

/// Upper bound of the width of a text in these fonts.
fn width(text: &str, bold: bool) -> f64 {
    let each = |c: char| match c {
        'i' | 'l' | 'j' | 'I' | '.' | ',' | ':' | ';' | '|' | '!' | '\'' | '[' | ']' | '(' | ')' | ' ' | 't' | 'f' => {
            4.5
        }
        'm' | 'w' | 'M' | 'W' => 10.5,
        c if (c as u32) < 0x2E80 => 7.1,
        _ => 11.5,
    };
    text.chars().map(each).sum::<f64>() * if bold { 1.2 } else { 1.0 }
}

/// A box with lines of text, the first one bold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    pub(crate) class: &'static str,
    pub(crate) lines: Vec<String>,
    /// Number of identical boxes it represents.
    pub(crate) times: usize,
    /// Tooltip.
    pub(crate) hint: String,
    /// True for rounded boxes: inputs and outputs.
    pub(crate) round: bool,
}

impl Cell {
    /// Size of the box.
    pub(crate) fn size(&self) -> Size {
        let widths = self.lines.iter().enumerate().map(|(i, l)| width(l, i == 0));
        let badge = if self.times > 1 { 34.0 } else { 0.0 };
        let text = widths.fold(40.0, f64::max) + badge;
        Size { width: text + 2.0 * PADDING, height: self.lines.len() as f64 * LEADING + 8.0 }
    }

    /// Draws the box around a centre.
    pub(crate) fn draw(&self, (x, y): (f64, f64), out: &mut String) {
        let Size { width, height } = self.size();
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        let radius = if self.round { (height / 2.0).min(12.0) } else { 4.0 };
        let _ = write!(out, "<g><title>{}</title>", escape(&shorten(&self.hint, 400)));
        if self.times > 1 {
            let (l, t) = (left + 4.0, top - 4.0);
            let _ = write!(out, "<rect class=\"{}\" x=\"{l:.1}\" y=\"{t:.1}\" width=\"{width:.1}\" ", self.class);
            let _ = write!(out, "height=\"{height:.1}\" rx=\"{radius}\"/>");
        }
        let _ = write!(out, "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" ", self.class);
        let _ = write!(out, "height=\"{height:.1}\" rx=\"{radius}\"/>");
        for (i, line) in self.lines.iter().enumerate() {
            let class = if i == 0 { "b" } else { "s" };
            text(line, class, (left + PADDING, top + 15.0 + i as f64 * LEADING), out);
        }
        if self.times > 1 {
            badge(self.times, (left + width - 32.0, top + 4.0), out);
        }
        out.push_str("</g>\n");
    }
}

/// A dark badge `× n`.
pub(crate) fn badge(times: usize, (x, y): (f64, f64), out: &mut String) {
    let label = format!("× {times}");
    let wide = width(&label, true) + 8.0;
    let _ = write!(out, "<rect class=\"dot\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" ", x + 28.0 - wide);
    let _ = write!(out, "height=\"16\" rx=\"8\"/>");
    text(&label, "badge", (x + 32.0 - wide, y + 12.0), out);
}

/// A line of text.
pub(crate) fn text(content: &str, class: &str, (x, y): (f64, f64), out: &mut String) {
    let _ = write!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content));
}

/// An arrow along points; `offset` moves it.
pub(crate) fn edge(points: &[(f64, f64)], (dx, dy): (f64, f64), out: &mut String) {
    let Some((&(x, y), rest)) = points.split_first() else { return };
    let (mut x, mut y) = (x + dx, y + dy);
    let _ = write!(out, "<path class=\"edge\" d=\"M{x:.1} {y:.1}");
    for (i, &(tx, ty)) in rest.iter().enumerate() {
        let end = if i + 1 == rest.len() { 5.0 } else { 0.0 };
        let (tx, ty) = (tx + dx, ty + dy - end);
        let middle = (y + ty) / 2.0;
        let _ = write!(out, " C{x:.1} {middle:.1} {tx:.1} {middle:.1} {tx:.1} {ty:.1}");
        (x, y) = (tx, ty);
    }
    let _ = writeln!(out, "\"/><path class=\"tip\" d=\"M{:.1} {y:.1}h8l-4 6z\"/>", x - 4.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text() {
        assert_eq!(escape("<script>&\"'"), "&lt;script&gt;&amp;&quot;&#39;");
        assert_eq!(escape("a\u{0}b\u{202E}c\n\u{FFFF}é"), "a\u{FFFD}b\u{FFFD}c\u{FFFD}\u{FFFD}é");
    }

    #[test]
    fn long_lines_lose_their_middle() {
        assert_eq!(shorten("abcdefgh", 8), "abcdefgh");
        assert_eq!(shorten("abcdefghi", 8), "abcd…ghi");
        assert_eq!(shorten("äöüßäöüß", 4), "äö…ß");
    }
}
