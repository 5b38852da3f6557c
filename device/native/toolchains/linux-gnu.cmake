# A runner for glibc Linux on ${EDGE_MTP_MACHINE}, to be copied to another machine: nothing but glibc is expected there.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${EDGE_MTP_MACHINE})
if(NOT CMAKE_C_COMPILER)
  set(CMAKE_C_COMPILER ${EDGE_MTP_MACHINE}-linux-gnu-gcc)
  set(CMAKE_CXX_COMPILER ${EDGE_MTP_MACHINE}-linux-gnu-g++)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
add_link_options(-static-libstdc++ -static-libgcc -s)
