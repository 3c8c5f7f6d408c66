from glob import glob

from setuptools import find_packages, setup

package_name = 'robust_pvos_ros'

setup(
    name=package_name,
    version='0.1.0',
    description='Promptable video object segmentation for ROS 2, with SAM 2 and MoGA adapters.',
    maintainer='robust_pvos_ros maintainers',
    maintainer_email='maintainers@robust-pvos.example',
    license='Apache-2.0',
    python_requires='>=3.10',
    # training, benchmarks and test are for the source tree alone.
    packages=find_packages(include=[package_name, f'{package_name}.*']),
    package_data={
        f'{package_name}.console': ['static/*'],
        f'{package_name}.evaluation': ['templates/*'],
        f'{package_name}.tracking': ['weights/*.safetensors', 'weights/*.md'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{package_name}']),
        (f'share/{package_name}', ['package.xml']),
        (f'share/{package_name}/launch', sorted(glob('launch/*.launch.py'))),
        (f'share/{package_name}/config', sorted(glob('config/*'))),
    ],
    # torch and sam2 have no rosdep keys and are no requirement here, so that colcon does not look for them either.
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'segmentation_node = robust_pvos_ros.node_main:main',
            'pvos_export = robust_pvos_ros.export.command:main',
            'demo = robust_pvos_ros.demo.run:main',
            'demo_camera = robust_pvos_ros.demo.camera:main',
            'demo_client = robust_pvos_ros.demo.client:main',
            'demo_recorder = robust_pvos_ros.demo.recorder:main',
            'pvos_bag = robust_pvos_ros.bags.cli:command',
            'web_console = robust_pvos_ros.console.main:main',
        ],
    },
)
