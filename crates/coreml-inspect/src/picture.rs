//! Draws the graph of a model as SVG.
//!
//! Every function is a row of frames: operations before the layers, the layers, operations after them. Within a frame,
//! operations run from top to bottom. Inputs and outputs of a frame are rounded boxes, so that no edge crosses the
//! picture. Identical layers (`× 28`) and identical branches are drawn once. Pictures are bounded: frames with too many
//! operations only show counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

use coreml_format::description::{FunctionDescription, ModelDescription};
use coreml_format::program::{Function, Program};

use crate::graph::{Graph, Node, Role};
use crate::layers::{self, Group};
use crate::layout::{self, Size};
use crate::parallel;
use crate::svg::{self, Cell, LINE, shorten};

mod frame;

use frame::Frame;

/// Margin around and gap between frames.
const GAP: f64 = 28.0;
/// Maximum number of operations drawn in total.
const BUDGET: usize = 3000;

/// Options of a picture.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Title, such as the file name.
    pub title: String,
    /// Draw only this function.
    pub function: Option<String>,
    /// Draw every layer and branch, even identical ones.
    pub unfold: bool,
}

/// The model has no such function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFunction {
    /// Requested name.
    pub name: String,
    /// Available functions.
    pub available: Vec<String>,
}

impl std::fmt::Display for UnknownFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the model has no function `{}`; there are {}", self.name, self.available.join(", "))
    }
}

impl std::error::Error for UnknownFunction {}

/// Draws a program.
///
/// # Errors
/// [`UnknownFunction`] if the options name a missing function.
pub fn draw(program: &Program, description: &ModelDescription, options: &Options) -> Result<String, UnknownFunction> {
    let functions = &program.functions;
    if let Some(name) = &options.function
        && !functions.contains_key(name)
    {
        return Err(UnknownFunction { name: name.clone(), available: functions.keys().cloned().collect() });
    }
    let mut body = String::new();
    let (mut width, mut top) = (760.0f64, 44.0);
    svg::text(&shorten(&options.title, 100), "h1", (GAP, top), &mut body);
    top += 16.0;
    top = legend(top, &mut width, &mut body);
    let mut budget = BUDGET;
    for (name, function) in functions {
        if options.function.as_ref().is_some_and(|f| f != name) {
            continue;
        }
        let described = description.functions.get(name);
        let (wide, bottom) = draw_function(name, function, described, options, &mut budget, top, &mut body);
        (width, top) = (width.max(wide), bottom);
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{top:.0}\" \
         viewBox=\"0 0 {width:.0} {top:.0}\">\n<style>{}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>",
        svg::STYLE
    );
    out.push_str(&body);
    out.push_str("</svg>\n");
    Ok(out)
}

fn legend(top: f64, width: &mut f64, out: &mut String) -> f64 {
    let (mut x, y) = (GAP, top + 18.0);
    for (class, label) in svg::LEGEND {
        let cell = Cell { class, lines: vec![label.to_owned()], round: frame::is_round(class), ..Cell::default() };
        let wide = cell.size().width;
        cell.draw((x + wide / 2.0, y), out);
        x += wide + 8.0;
    }
    *width = width.max(x + GAP);
    y + 34.0
}

/// Draws a function below `top`; returns its width and bottom.
fn draw_function(
    name: &str,
    function: &Function,
    described: Option<&FunctionDescription>,
    options: &Options,
    budget: &mut usize,
    top: f64,
    out: &mut String,
) -> (f64, f64) {
    let graph = Graph::new(function);
    let operations = graph.nodes.iter().filter(|n| n.is_operation()).count();
    let mut y = top + 22.0;
    let title = format!("function {} · {} · {operations} operations", shorten(name, 60), function.opset.text_name());
    svg::text(&title, "h2", (GAP, y), out);
    y += 20.0;
    for line in interface(&graph, described) {
        svg::text(&line, "s", (GAP, y), out);
        y += 15.0;
    }
    let frames: Vec<Frame> = frames(&graph, options, budget);
    // Choose the width for an aspect ratio of about 2:1, with rows filled from left to right.
    let area: f64 = frames.iter().map(|f| (f.width + GAP) * (f.height + GAP)).sum();
    let widest = frames.iter().map(|f| f.width).fold(0.0, f64::max);
    let limit = (area * 1.9).sqrt().max(widest) + GAP;
    let (mut x, mut row, mut wide) = (GAP, 0.0f64, 0.0f64);
    y += 6.0;
    for frame in &frames {
        if x > GAP && x + frame.width > limit + GAP {
            (x, y, row) = (GAP, y + row + GAP, 0.0);
        }
        frame.draw((x, y), out);
        x += frame.width + GAP;
        row = row.max(frame.height);
        wide = wide.max(x);
    }
    (wide, y + row + GAP)
}

/// Lines describing inputs, outputs and states.
fn interface(graph: &Graph, described: Option<&FunctionDescription>) -> Vec<String> {
    let of = |role: Role| graph.nodes.iter().filter(move |n| n.role == role);
    let one = |n: &Node| format!("{}: {}", shorten(&n.name, LINE), n.ty);
    let mut lines = Vec::new();
    let mut add = |what: &str, items: Vec<String>| {
        for (i, part) in items.chunks(4).take(6).enumerate() {
            lines.push(format!(
                "{}{}",
                if i == 0 { format!("{what}: ") } else { "      ".to_owned() },
                part.join("  ·  ")
            ));
        }
    };
    add("inputs", of(Role::Input).map(one).collect());
    add("states", of(Role::State).map(one).collect());
    let outputs: Vec<String> = match described {
        Some(d) => d.outputs.iter().map(|o| shorten(&o.name, LINE)).collect(),
        None => graph.nodes.iter().flat_map(|n| n.outputs.iter().map(|o| shorten(o, LINE))).collect(),
    };
    add("outputs", outputs);
    lines
}

fn frames(graph: &Graph, options: &Options, budget: &mut usize) -> Vec<Frame> {
    let mut homes: HashMap<usize, String> = HashMap::new();
    let mut all: Vec<Group> = Vec::new();
    for (block, title) in graph.blocks.iter().enumerate() {
        let mut groups = layers::groups(graph, block);
        if block == 0 && groups.len() > 1 {
            let (mut after, names) = (false, ["before the layers", "after the layers"]);
            for group in &mut groups {
                if group.title.is_empty() {
                    group.title = names[usize::from(after)].to_owned();
                    group.last.clone_from(&group.title);
                } else {
                    after = true;
                }
            }
        } else if block > 0 {
            groups.iter_mut().for_each(|g| g.title.clone_from(title));
        }
        for group in &groups {
            homes.extend(group.nodes.iter().map(|&n| (n, group.title.clone())));
        }
        all.extend(if options.unfold { groups } else { layers::fold(graph, groups) });
    }
    let consumers = graph.consumers();
    all.iter()
        .map(|group| {
            let drawn = Frame::new(graph, group, &homes, &consumers, options, *budget);
            *budget = budget.saturating_sub(drawn.operations);
            drawn
        })
        .collect()
}

#[cfg(test)]
mod tests;
