// ffcv includes OpenCV's umbrella header but uses only these two modules.
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
