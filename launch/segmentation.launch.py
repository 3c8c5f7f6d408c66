"""Start the segmentation node.

    ros2 launch robust_pvos_ros segmentation.launch.py image_topic:=/front/image_raw params_file:=FILE.yaml
    ros2 launch robust_pvos_ros segmentation.launch.py discovery_range:=SUBNET   # cameras or clients on other machines
    ros2 launch robust_pvos_ros segmentation.launch.py console:=true    # and a page on http://127.0.0.1:8100
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare('robust_pvos_ros'), 'config'])
RANGE, OLD_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([CONFIG, 'segmentation.yaml']),
            description='YAML file with the parameters that differ from the defaults of the node.',
        ),
        DeclareLaunchArgument(
            'console',
            default_value='false',
            description='Also start the web console, and let prompts reach back far enough for a frozen picture.',
            choices=['true', 'false'],
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='camera/image_raw',
            description='Topic of the camera images; the name that the parameter camera.image_topic has by default.',
        ),
        DeclareLaunchArgument(
            'namespace',
            default_value='',
            description='Namespace of the node; the camera topics, which are relative names, move with it.',
        ),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='false',
            description='Take the time from the topic /clock, as in a simulation or the replay of a bag.',
            choices=['true', 'false'],
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            description='Least severity that is logged.',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
        ),
        DeclareLaunchArgument(
            'discovery_range',
            default_value=EnvironmentVariable(RANGE, default_value='LOCALHOST'),
            description='Who can find the node: LOCALHOST, processes of this machine; SUBNET, those of the network. '
            f'By default what the environment variable {RANGE} says, and LOCALHOST if it says nothing; ignored where '
            f'{OLD_RANGE} is set, and by Humble, which knows that variable alone.',
        ),
    ]
    # With Fast DDS's defaults most raw images are lost between processes; a profile that the user has set stays.
    profile = SetEnvironmentVariable(
        'FASTRTPS_DEFAULT_PROFILES_FILE',
        EnvironmentVariable(
            'FASTRTPS_DEFAULT_PROFILES_FILE', default_value=[PathJoinSubstitution([CONFIG, 'fastdds_large.xml'])]
        ),
    )
    # What a console asks of the node comes first, so that params_file has the last word.
    wanted = ["'", LaunchConfiguration('console'), "' == 'true'"]
    console_file = PathJoinSubstitution(
        [CONFIG, PythonExpression(["'console.yaml' if ", *wanted, " else 'segmentation.yaml'"])]
    )
    common = [LaunchConfiguration('params_file'), {'use_sim_time': LaunchConfiguration('use_sim_time')}]
    discovery = {} if OLD_RANGE in os.environ else {RANGE: LaunchConfiguration('discovery_range')}
    node = Node(
        package='robust_pvos_ros',
        executable='segmentation_node',
        name='robust_pvos',
        namespace=LaunchConfiguration('namespace'),
        parameters=[console_file, *common],
        remappings=[('camera/image_raw', LaunchConfiguration('image_topic'))],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        additional_env=discovery,
        output='screen',
        emulate_tty=True,
    )
    console = Node(
        package='robust_pvos_ros',
        executable='web_console',
        name='web_console',
        namespace=LaunchConfiguration('namespace'),
        parameters=[console_file, *common],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        additional_env=discovery,
        output='screen',
        emulate_tty=True,
        condition=IfCondition(LaunchConfiguration('console')),
    )
    return LaunchDescription([*arguments, profile, node, console])
