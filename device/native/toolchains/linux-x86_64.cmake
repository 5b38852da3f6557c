set(EDGE_MTP_MACHINE x86_64)
include(${CMAKE_CURRENT_LIST_DIR}/linux-gnu.cmake)
