# a stand-in: sets what its own tools look for
export SGS_IPU_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$SGS_IPU_DIR/Scripts/calibrator${PYTHONPATH:+:$PYTHONPATH}
[ $# -eq 0 ] || export STAND_IN_SAW_ARGUMENTS=$#
