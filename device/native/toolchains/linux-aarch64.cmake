set(EDGE_MTP_MACHINE aarch64)
include(${CMAKE_CURRENT_LIST_DIR}/linux-gnu.cmake)
