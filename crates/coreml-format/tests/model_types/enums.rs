//! Checks that every enumeration has the values of the format.

use std::collections::BTreeSet;
use std::fmt::Debug;

use coreml_format::model_types::*;
use neural_network::*;

/// An enumeration of the format, and the names here by number.
struct Row {
    name: &'static str,
    values: Vec<(i32, String)>,
}

fn row<E: TryFrom<i32> + Debug>(name: &'static str) -> Row {
    let value = |number| E::try_from(number).ok().map(|value| (number, format!("{value:?}")));
    Row { name, values: (-1000..1000).filter_map(value).collect() }
}

fn rows() -> Vec<Row> {
    vec![
        row::<audio_feature_print::SoundVersion>("AudioFeaturePrint.Sound.SoundVersion"),
        row::<resize::BoxCoordinates>("BoxCoordinatesMode.Coordinates"),
        row::<convolution::Convolution3dPadding>("Convolution3DLayerParams.PaddingType"),
        row::<shape::FlattenOrder>("FlattenLayerParams.FlattenOrder"),
        row::<glm::ClassEncoding>("GLMClassifier.ClassEncoding"),
        row::<glm::ClassificationTransform>("GLMClassifier.PostEvaluationTransform"),
        row::<glm::RegressionTransform>("GLMRegressor.PostEvaluationTransform"),
        row::<activation::GeluMode>("GeluLayerParams.GeluMode"),
        row::<pooling::GlobalPoolingType3d>("GlobalPooling3DLayerParams.GlobalPoolingType3D"),
        row::<ImageShapeMapping>("NeuralNetworkImageShapeMapping"),
        row::<ArrayShapeMapping>("NeuralNetworkMultiArrayShapeMapping"),
        row::<normalizer::NormType>("Normalizer.NormType"),
        row::<one_hot_encoder::HandleUnknown>("OneHotEncoder.HandleUnknown"),
        row::<pooling::Pooling3dPadding>("Pooling3DLayerParams.Pooling3DPaddingType"),
        row::<pooling::PoolingType3d>("Pooling3DLayerParams.PoolingType3D"),
        row::<pooling::PoolingType>("PoolingLayerParams.PoolingType"),
        row::<reduce::ReduceAxis>("ReduceLayerParams.ReduceAxis"),
        row::<reduce::ReduceOperation>("ReduceLayerParams.ReduceOperation"),
        row::<shape::ReorganizationType>("ReorganizeDataLayerParams.ReorganizationType"),
        row::<shape::ReshapeOrder>("ReshapeLayerParams.ReshapeOrder"),
        row::<convolution::SamePaddingMode>("SamePadding.SamePaddingMode"),
        row::<resize::SamplingMethod>("SamplingMode.Method"),
        row::<scatter_gather::ScatterMode>("ScatterMode"),
        row::<slice::SliceAxis>("SliceLayerParams.SliceAxis"),
        row::<tree_ensemble::NodeBehavior>("TreeEnsembleParameters.TreeNode.TreeNodeBehavior"),
        row::<tree_ensemble::TreeEnsembleTransform>("TreeEnsemblePostEvaluationTransform"),
        row::<elementwise::UnaryOperation>("UnaryFunctionLayerParams.Operation"),
        row::<resize::InterpolationMode>("UpsampleLayerParams.InterpolationMode"),
        row::<resize::LinearUpsampleMode>("UpsampleLayerParams.LinearUpsampleMode"),
        row::<vision_feature_print::ObjectsVersion>("VisionFeaturePrint.Objects.ObjectsVersion"),
        row::<vision_feature_print::SceneVersion>("VisionFeaturePrint.Scene.SceneVersion"),
    ]
}

/// Names without underscores, case-insensitive.
fn bare(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

#[test]
fn every_enumeration_has_the_values_of_the_format() {
    let format = super::format();
    let rows = rows();
    let known: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(known, format.enums.keys().map(String::as_str).collect());
    for row in rows {
        let defined = &format.enums[row.name];
        let mut expected: Vec<(i32, &str)> = defined.iter().map(|(name, number)| (*number, name.as_str())).collect();
        expected.sort_unstable();
        assert_eq!(expected.len(), row.values.len(), "{}", row.name);
        for ((number, name), (here, short)) in expected.into_iter().zip(&row.values) {
            assert_eq!(number, *here, "{}: {name}", row.name);
            let (name, short) = (bare(name), bare(short));
            let alike = name.contains(&short) || OTHER.contains(&(name.as_str(), short.as_str()));
            assert!(alike, "{}: {name} is {short}", row.name);
        }
    }
}

/// Values whose names here are not part of those in the format.
const OTHER: [(&str, &str); 7] = [
    ("avg", "average"),
    ("prod", "product"),
    ("nn", "nearest"),
    ("soundversion1", "v1"),
    ("sceneversion1", "v1"),
    ("sceneversion2", "v2"),
    ("objectsversion1", "v1"),
];
